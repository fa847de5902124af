"""The options of the commands that look inside: ``diagnose``, ``visualize``, ``probe`` and ``benchmark``."""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path

from mmdistill_dense.apps.options import add_common, add_config, later


def fill_diagnose(parser: argparse.ArgumentParser) -> None:
    add_common(parser, 'Measure each term of the loss: value, gradient at the backbone, cosine with the task')
    parser.add_argument('--checkpoint', help='of a run of this config (iter_*.pth); default: the untrained student')
    parser.add_argument('--batches', type=int, default=8, help='training batches to average over (default: 8)')
    parser.add_argument('--iteration', type=int, help="iteration for the schedules (default: the checkpoint's)")
    parser.add_argument('--taps', action='store_true', help='show the gradients at the tapped maps too')
    parser.add_argument('--stages', action='store_true', help='show the gradients at each part of the backbone too')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write all numbers of each batch to this file')
    parser.set_defaults(run=later('inspect.gradients:diagnose_command'))


def fill_visualize(parser: argparse.ArgumentParser) -> None:
    parser.description = "Draw what a method has learned: MasKD's masks over images, or the similarity of pixels (PCD)"
    commands = parser.add_subparsers(dest='what', required=True)
    masks = commands.add_parser('masks', help='a column per token, a row per level (per image, with a single level)')
    add_config(masks, 'config with a MasKD; by default with the tokens of its training')
    source = masks.add_mutually_exclusive_group()
    source.add_argument('--checkpoint', help='checkpoint of a run of the config')
    source.add_argument('--tokens', help='token file')
    masks.add_argument('--images', type=int, default=4, help='number of test images')
    masks.add_argument('--out', type=Path, default=Path('work_dirs/masks'), help='folder for the pictures')
    masks.set_defaults(run=later('inspect.similarity:masks_command'))
    similarity = commands.add_parser(
        'similarity', help='cosine of a pixel with all others, teacher and student side by side'
    )
    add_config(similarity, 'config of a distilled model, of pre-training or of a segmentor or detector')
    similarity.add_argument('--checkpoint', help='checkpoint of a run of the config; without it, the untrained student')
    similarity.add_argument('--distiller', help='distiller whose taps are shown; default: the first')
    similarity.add_argument('--files', nargs='+', type=Path, help='image files; default: from the test or training set')
    similarity.add_argument('--images', type=int, default=4, help='number of images of the set')
    where = similarity.add_mutually_exclusive_group()
    where.add_argument('--points', nargs='+', type=_point, metavar='X,Y', help='pixels of the image')
    where.add_argument('--grid', type=int, default=3, help='n for a grid of n x n pixels')
    similarity.add_argument('--out', type=Path, default=Path('work_dirs/similarity'), help='folder for the pictures')
    similarity.set_defaults(run=later('inspect.similarity:similarity_command'))


def _point(text: str) -> tuple[int, int]:
    try:
        x, y = (int(part) for part in text.split(','))
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is not a pixel: write X,Y, e.g. 120,80') from None
    return x, y


def fill_probe(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        'Classify pictures by the frozen features of a backbone: nearest neighbours and a linear layer.'
    )
    parser.add_argument('config', help='config the backbone was trained with: a file, or METHOD:PAIR[:VARIANT]')
    parser.add_argument('checkpoint', help='a checkpoint of that run, or an exported backbone')
    parser.add_argument('data', type=Path, help='folder with train/CLASS/… and val/CLASS/…, as ImageNet')
    parser.add_argument('--images', type=int, help='pictures of each part, evenly spaced (default: all)')
    parser.add_argument('--size', type=int, default=224, help='side of the pictures')
    parser.add_argument('--batch', type=int, default=64)
    parser.add_argument('--device', help='default: cuda where there is one, else cpu')
    parser.set_defaults(run=later('inspect.picture_probe:probe_command'))


def fill_benchmark(parser: argparse.ArgumentParser) -> None:
    """Add ``benchmark``, whose options its own program reads."""
    parser.description = 'Measure a distilled step, a pass of the teacher, or losses; --help of a subject shows more'
    parser.add_argument('words', nargs=argparse.REMAINDER, metavar='…', help='step, teacher, losses or all')
    parser.set_defaults(run=_benchmark, speaks=True)


def _benchmark(args: argparse.Namespace) -> None:
    from mmdistill_dense.apps.recipes.compose import configs

    sys.argv[:] = [str(configs().parent / 'tools' / 'benchmark.py'), *args.words]
    runpy.run_path(sys.argv[0], run_name='__main__')
