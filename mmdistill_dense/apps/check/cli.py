"""The command lines of ``tools/check.py`` and ``tools/list_taps.py``."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from mmdistill_dense.apps.commands.cli import OptionsAction
from mmdistill_dense.utils.messages import message_of
from mmdistill_dense.utils.quiet import quiet

if TYPE_CHECKING:
    from mmengine.config import Config

WIDTH = 140  # without a terminal
EXIT_CODES = 'Exit code: 0 when training would work, 1 for warnings with --strict, 2 for an error.'


def main_check(argv: Sequence[str] | None = None) -> int:
    """Check what a config would train, and say what is wrong with it."""
    args = _check_parser().parse_args(argv)
    # Not before the arguments are read: this takes seconds.
    import torch

    from mmdistill_dense.apps.check.context import Options
    from mmdistill_dense.apps.check.render import show
    from mmdistill_dense.apps.check.run import check_config
    from mmdistill_dense.utils.atomic import without_nan

    console = _console()
    size = tuple(args.size) if args.size else None
    device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    options = Options(not args.no_weights, device, args.batch, size, args.val, not args.no_cost, args.processes)
    try:
        config = _config(args)
    except Exception as error:  # a config may run any code
        console.print(f'ERROR while reading the config: {message_of(error)}', style='bold red', markup=False)
        return 2
    with _telling(console) as tell:
        report = check_config(config, options, tell)
    show(report, console)
    if args.json:
        Path(args.json).write_text(json.dumps(without_nan(report.as_dict()), indent=1), encoding='utf-8')
    return report.exit_code(args.strict)


def _check_parser() -> argparse.ArgumentParser:
    parser = _parser('Check a config before training: build, load, run one step, compare', EXIT_CODES)
    parser.add_argument(
        '--no-weights', action='store_true', help='use random weights: only shapes and options are checked'
    )
    parser.add_argument('--device', help='default: cuda where there is one, else cpu')
    parser.add_argument('--batch', type=_count, help="pictures of the step; default: the config's for one process")
    parser.add_argument(
        '--size', type=_count, nargs=2, metavar=('H', 'W'), help='generate pictures of this size; no data set is read'
    )
    parser.add_argument('--val', type=int, default=4, metavar='N', help='test the teacher on N pictures (%(default)s)')
    parser.add_argument('--no-cost', action='store_true', help='do not measure time and memory of a step')
    parser.add_argument('--processes', type=_count, default=1, help='processes that will train together (%(default)s)')
    parser.add_argument('--strict', action='store_true', help='exit code 1 if there are warnings')
    parser.add_argument('--json', metavar='FILE', help='write the report to this file too')
    return parser


def main_list_taps(argv: Sequence[str] | None = None) -> int:
    """List the modules of a config's networks with their output shapes."""
    parser = _parser('List the modules that can be tapped, with their output shapes', 'Exit code: 0, 2 for an error.')
    parser.add_argument('--auto', action='store_true', help="only the taps of student_tap='auto'")
    side = parser.add_mutually_exclusive_group()
    side.add_argument('--student', action='store_true', help='the student alone')
    side.add_argument('--teacher', action='store_true', help='the teachers alone')
    parser.add_argument('--depth', type=_count, default=2, help='levels of the tree (%(default)s)')
    parser.add_argument('--below', default='', metavar='PATH', help='this module and what is in it, e.g. backbone')
    parser.add_argument('--size', type=_count, nargs=2, metavar=('H', 'W'), help='of the picture; default: as trained')
    args = parser.parse_args(argv)
    from mmdistill_dense.apps.check.tap_list import AutoTaps, list_taps, networks_of, tree

    console = _console()
    try:
        config = _config(args)
        networks = list(networks_of(config, args.student, args.teacher))
        auto = AutoTaps(config, args.size)
        for title, network, grid in [] if args.auto else networks:
            found = list_taps(network, args.size, args.depth, args.below, auto.taps(title), grid)
            console.print(tree(title, found))
            console.print()
        if not args.below:
            console.print('\n'.join(auto.lines), markup=False)
    except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
        console.print(f'ERROR: {message_of(error)}', style='bold red', markup=False)
        return 2
    return 0


def _parser(description: str, epilog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, epilog=epilog)
    parser.add_argument('config', help='config file, or METHOD:PAIR[:VARIANT]')
    parser.add_argument(
        '--cfg-options', nargs='+', action=OptionsAction, metavar='KEY=VALUE', help='settings that override the config'
    )
    return parser


def _config(args: argparse.Namespace) -> Config:
    with quiet():
        from mmdistill_dense.apps.recipes.named import read_config

        return read_config(args.config, args.cfg_options)


def _console() -> Console:
    console = Console(file=sys.stdout, highlight=False)
    return console if console.is_terminal else Console(file=sys.stdout, highlight=False, width=WIDTH)


@contextlib.contextmanager
def _telling(console: Console) -> Iterator[Callable[[str], None] | None]:
    """Yield a function that shows the current stage on a terminal; ``None`` elsewhere."""
    if not console.is_terminal:
        yield None
        return
    with console.status('…') as status:
        yield lambda stage: status.update(f'{stage} …')


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f'must be 1 or more, got {number}')
    return number
