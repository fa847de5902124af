"""The options that commands share, and what is looked at before anything slow is imported."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from mmdistill_dense.utils.validate import counted


def add_common(parser: argparse.ArgumentParser, description: str) -> None:
    """Add what all commands on a config take."""
    parser.description = description
    add_config(parser)
    parser.add_argument('--work-dir', help='folder for logs and checkpoints (default: work_dirs/<name of the config>)')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by launchers')
    processes = parser.add_mutually_exclusive_group()
    processes.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='what started the processes'
    )
    processes.add_argument(
        '--processes',
        dest='to_start',
        type=counted,
        metavar='N',
        help='start N processes on this machine, one for each GPU (torchrun)',
    )


def add_config(parser: argparse.ArgumentParser, text: str = 'config file, or METHOD:PAIR[:VARIANT]') -> None:
    parser.add_argument('config', help=text)
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionsAction,
        metavar='KEY=VALUE',
        help='settings that replace those of the config',
    )


def start_processes(args: argparse.Namespace, words: Sequence[str]) -> None:
    """Become torchrun where ``--processes`` asks for it; in a process that torchrun has started, say so."""
    if getattr(args, 'to_start', None) is None:
        return
    if 'TORCHELASTIC_RUN_ID' in os.environ:
        args.launcher = 'pytorch'
        return
    check_files(args)
    torchrun = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(args.to_start)]
    os.execv(sys.executable, [sys.executable, *torchrun, '-m', 'mmdistill_dense', *words])


def later(place: str) -> Callable[[argparse.Namespace], int | None]:
    """Return a function that looks for the given files first, and then imports and calls ``module:function``."""

    def run(args: argparse.Namespace) -> int | None:
        check_files(args)
        module, _, function = place.partition(':')
        return getattr(import_module(f'mmdistill_dense.apps.{module}'), function)(args)

    return run


def check_files(args: argparse.Namespace) -> None:
    """Raise for a config or checkpoint that is no file, before anything slow is imported."""
    config = getattr(args, 'config', None)
    if config and config.endswith('.py') and '::' not in config and not Path(config).is_file():
        raise FileNotFoundError(f'{config}: no such file (working folder {Path.cwd()}).')
    for name in ('checkpoint', 'checkpoint_option'):
        given = getattr(args, name, None)
        if given and '://' not in given and not Path(given).is_file():
            raise FileNotFoundError(f'{given}: no such checkpoint (working folder {Path.cwd()}).')


class OptionsAction(argparse.Action):
    """Reads ``KEY=VALUE …`` as mmengine does, but keeps the blanks of a single value, which may be a path."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option: str | None = None,
    ) -> None:
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
