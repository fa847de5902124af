"""Draw what a method has learned: `masks` of MasKD's tokens over images, or `similarity` of pixels (PCD)."""

import argparse
from pathlib import Path

from mmdistill_dense.apps.commands.cli import OptionsAction
from mmdistill_dense.apps.inspect.similarity import add_similarity, draw_masks, run_similarity
from mmdistill_dense.apps.recipes.named import read_config
from mmdistill_dense.distillers.maskd import ready_distiller
from mmdistill_dense.utils.messages import text_of


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest='what', required=True)
    masks = commands.add_parser('masks', help='a column per token, a row per level (per image, with a single level)')
    masks.add_argument('config', help='config with a MasKD; by default with the tokens of its training')
    source = masks.add_mutually_exclusive_group()
    source.add_argument('--checkpoint', help='checkpoint of a run of the config')
    source.add_argument('--tokens', help='token file')
    masks.add_argument('--images', type=int, default=4, help='number of test images')
    masks.add_argument('--out', type=Path, default=Path('work_dirs/masks'), help='folder for the pictures')
    masks.add_argument('--cfg-options', nargs='+', action=OptionsAction, help='overrides: key=value')
    add_similarity(commands)
    args = parser.parse_args()
    if args.what == 'similarity':
        print(*run_similarity(args), sep='\n')
        return
    config = read_config(args.config, args.cfg_options)
    try:
        model, distiller = ready_distiller(config, args.tokens, args.checkpoint)
    except (FileNotFoundError, KeyError, ValueError) as error:
        parser.exit(2, f'ERROR    {text_of(error)}\n')
    for path in draw_masks(model, distiller, config.test_dataloader.dataset, args.out, args.images):
        print(path)


if __name__ == '__main__':
    main()
