"""The command lines ``train``, ``test`` and ``learn_tokens``, with the arguments of mmseg's and mmdet's scripts.

Nothing slow is imported before the arguments are read.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any


def main_train(argv: Sequence[str] | None = None) -> None:
    """Train with a config."""
    parser = common_parser('Train with a config')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from this, or from the latest one in the work folder',
    )
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate to the real batch size')
    args = parser.parse_args(argv)
    from mmdistill_dense.apps.commands.training import train

    train(args)


def main_test(argv: Sequence[str] | None = None) -> None:
    """Test a checkpoint with a config."""
    parser = common_parser('Test a checkpoint with a config')
    parser.add_argument('checkpoint', nargs='?', help='the checkpoint to test')
    parser.add_argument(
        '--checkpoint', dest='checkpoint_option', metavar='CHECKPOINT', help='the same, as mim passes it'
    )
    parser.add_argument('--out', help='write predictions to FILE.pkl, or for segmentation to a folder of label images')
    parser.add_argument('--show', action='store_true', help='show the pictures in a window')
    parser.add_argument('--show-dir', help='folder to save the pictures in')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds per shown picture')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    args = parser.parse_args(argv)
    if not (args.checkpoint or args.checkpoint_option):
        parser.error('the checkpoint is missing: CONFIG CHECKPOINT')
    from mmdistill_dense.apps.commands.training import test

    test(args)


def main_learn_tokens(argv: Sequence[str] | None = None) -> None:
    """Learn the tokens of MasKD that a config needs, and write them where its training finds them."""
    parser = common_parser('Learn the tokens of MasKD on the teacher of a config, and stop')
    parser.add_argument('--out', metavar='FILE', help='also write the tokens here, for tokens= of other configs')
    args = parser.parse_args(argv)
    from mmdistill_dense.apps.commands.training import learn_tokens

    learn_tokens(args, parser.error)


def common_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser of what all commands on a config take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='config file, or METHOD:PAIR[:VARIANT]')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints (default: work_dirs/<name of the config>)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionsAction,
        metavar='KEY=VALUE',
        help='settings that replace those of the config',
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='what started the processes'
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by launchers')
    return parser


class OptionsAction(argparse.Action):
    """Reads ``KEY=VALUE …`` as mmengine does, but keeps the blanks of a single value, which may be a path.

    Lists (``a,b`` or ``[a, b]``) are read as there. A word that is no ``KEY=VALUE`` is an error of the command line.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option: str | None = None,
    ) -> None:
        """Add the options to those of the namespace."""
        given = dict(getattr(namespace, self.dest, None) or {})
        for pair in values or ():
            key, sign, value = str(pair).partition('=')
            if not sign:
                parser.error(f'--cfg-options {pair}: give KEY=VALUE; put quotes around a value with blanks.')
            given[key] = _value(value)
        setattr(namespace, self.dest, given)


def _value(given: str) -> Any:
    """Return a number, boolean, ``None``, text, list or tuple."""
    from mmengine.config import DictAction

    text = given.strip().strip('\'"')
    listed = ',' in text or (text[:1], text[-1:]) in (('(', ')'), ('[', ']'))
    return DictAction._parse_iterable(given) if listed else DictAction._parse_int_float_bool(text)
