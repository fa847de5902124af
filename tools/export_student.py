"""Write a distilled student as an ordinary mmseg or mmdet network: its weights and the plain config that loads them."""

import argparse

from mmengine.config import Config, DictAction

from mmdistill_dense.checkpoint import export_student


def main() -> None:
    """Read the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config the student was trained with')
    parser.add_argument('checkpoint', help='checkpoint of that run')
    parser.add_argument('out', help='weights to write (.pth); the config is written beside them (.py)')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='the overrides given in training: key=value'
    )
    args = parser.parse_args()
    config = Config.fromfile(args.config)
    if args.cfg_options:
        config.merge_from_dict(args.cfg_options)
    weights, plain = export_student(config, args.checkpoint, args.out)
    print(f'weights {weights}\nconfig  {plain}')


if __name__ == '__main__':
    main()
