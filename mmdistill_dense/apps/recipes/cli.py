"""The options of ``config``."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmdistill_dense.apps.options import later

USAGE = """Write a config to edit: one method on one pair of networks, with its control.

You need a file only to edit it: all commands take the name METHOD:PAIR[:VARIANT].

  mmdistill config --method cwd --pair deeplabv3_r101_to_r18_cityscapes
  mmdistill config --method cwd --pair my_pair.py --dataset voc12aug_512x512 --schedule sgd_40k --out mine.py
  mmdistill config --method maskd --pair my_pair.py --dataset my_data.py --settings auto
  mmdistill config --list
"""


def fill_config(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.formatter_class = USAGE, argparse.RawDescriptionHelpFormatter
    parser.add_argument('--method', help='name of a method, or your own file of method options')
    parser.add_argument('--pair', help='name in configs/_base_/pairs, or a file')
    parser.add_argument('--dataset', help='name in configs/_base_/datasets, or a file; needed where no recipe fits')
    parser.add_argument('--schedule', help='the same for schedules; default without a recipe: sgd_40k or sgd_1x')
    parser.add_argument('--variant', help='a variant of the method options')
    parser.add_argument(
        '--settings',
        choices=['auto', 'canonical'],
        help='in place of the constants of the options, see docs/settings.md',
    )
    parser.add_argument('--unlabelled', metavar='DIR', help='folder of pictures without labels, on which to teach too')
    parser.add_argument('--out', type=Path, help='file to write; default: its place in configs, or the working folder')
    parser.add_argument(
        '--all', action='store_true', help='write all configs that have no file yet (of --method, if given)'
    )
    parser.add_argument('--list', action='store_true', help='print which methods fit which recipes')
    parser.set_defaults(run=later('recipes.new_config:new_config'))
