"""The options of the commands on a config; ``train`` and ``test`` take those of mmseg's and mmdet's scripts.

Nothing slow is imported before the arguments are read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmdistill_dense.apps.options import add_common, later


def fill_train(parser: argparse.ArgumentParser) -> None:
    add_common(parser, 'Train with a config')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from this, or from the latest one in the work folder',
    )
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate to the real batch size')
    parser.set_defaults(run=later('commands.training:train'), speaks=True, raises=True)


def fill_test(parser: argparse.ArgumentParser) -> None:
    add_common(parser, 'Test a checkpoint with a config')
    parser.add_argument('checkpoint', nargs='?', help='the checkpoint to test')
    parser.add_argument(
        '--checkpoint', dest='checkpoint_option', metavar='CHECKPOINT', help='the same, as mim passes it'
    )
    parser.add_argument('--out', help='write predictions to FILE.pkl, or for segmentation to a folder of label images')
    parser.add_argument('--show', action='store_true', help='show the pictures in a window')
    parser.add_argument('--show-dir', help='folder to save the pictures in')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds per shown picture')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    parser.set_defaults(run=later('commands.training:test'), speaks=True, raises=True)


def fill_tokens(parser: argparse.ArgumentParser) -> None:
    add_common(parser, 'Learn the tokens of MasKD on the teacher of a config, write them where its training finds them')
    parser.add_argument('--out', metavar='FILE', help='also write the tokens here, for tokens= of other configs')
    parser.set_defaults(run=later('commands.training:learn_tokens'), raises=True)


def fill_pseudo_labels(parser: argparse.ArgumentParser) -> None:
    add_common(parser, "Write the labels that a config's teacher is sure of, for a folder of pictures")
    parser.add_argument('--pictures', metavar='DIR', help='folder (default: model.unlabelled of the config)')
    parser.add_argument('--out', metavar='DIR', type=Path, required=True, help='folder for the labels')
    parser.add_argument(
        '--threshold', type=float, help='least probability or score (default: as in training, docs/unlabelled.md)'
    )
    parser.add_argument('--teacher', metavar='NAME', help='which teacher, where the config has several')
    parser.set_defaults(run=later('commands.pseudo_label_command:pseudo_labels'))
