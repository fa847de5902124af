"""The options of ``check`` and ``taps``, and what both print."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from mmdistill_dense.apps.options import add_config, check_files
from mmdistill_dense.utils.messages import message_of
from mmdistill_dense.utils.quiet import quiet
from mmdistill_dense.utils.validate import counted

if TYPE_CHECKING:
    from mmengine.config import Config

WIDTH = 140  # without a terminal
EXIT_CODES = 'Exit code: 0 when training would work, 1 for warnings with --strict, 2 for an error.'


def fill_check(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = 'Check a config before training: build, load, run one step, compare', EXIT_CODES
    add_config(parser)
    parser.add_argument(
        '--no-weights', action='store_true', help='use random weights: only shapes and options are checked'
    )
    parser.add_argument('--device', help='default: cuda where there is one, else cpu')
    parser.add_argument('--batch', type=counted, help="pictures of the step; default: the config's for one process")
    parser.add_argument(
        '--size', type=counted, nargs=2, metavar=('H', 'W'), help='generate pictures of this size; no data set is read'
    )
    parser.add_argument('--val', type=int, default=4, metavar='N', help='test the teacher on N pictures (%(default)s)')
    parser.add_argument('--no-cost', action='store_true', help='do not measure time and memory of a step')
    parser.add_argument('--processes', type=counted, default=1, help='processes that will train together (%(default)s)')
    parser.add_argument('--strict', action='store_true', help='exit code 1 if there are warnings')
    parser.add_argument('--json', metavar='FILE', help='write the report to this file too')
    parser.set_defaults(run=_check)


def _check(args: argparse.Namespace) -> int:
    check_files(args)
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
    config = _config(args)
    with _telling(console) as tell:
        report = check_config(config, options, tell)
    show(report, console)
    if args.json:
        Path(args.json).write_text(json.dumps(without_nan(report.as_dict()), indent=1), encoding='utf-8')
    return report.exit_code(args.strict)


def fill_taps(parser: argparse.ArgumentParser) -> None:
    parser.description = 'List the modules that can be tapped, with their output shapes'
    add_config(parser)
    parser.add_argument('--auto', action='store_true', help="only the taps of student_tap='auto'")
    side = parser.add_mutually_exclusive_group()
    side.add_argument('--student', action='store_true', help='the student alone')
    side.add_argument('--teacher', action='store_true', help='the teachers alone')
    parser.add_argument('--depth', type=counted, default=2, help='levels of the tree (%(default)s)')
    parser.add_argument('--below', default='', metavar='PATH', help='this module and what is in it, e.g. backbone')
    parser.add_argument('--size', type=counted, nargs=2, metavar=('H', 'W'), help='of the picture; default: as trained')
    parser.set_defaults(run=_taps)


def _taps(args: argparse.Namespace) -> None:
    check_files(args)
    from mmdistill_dense.apps.check.tap_list import AutoTaps, list_taps, networks_of, tree

    console = _console()
    config = _config(args)
    networks = list(networks_of(config, args.student, args.teacher))
    auto = AutoTaps(config, args.size)
    for title, network, grid in [] if args.auto else networks:
        found = list_taps(network, args.size, args.depth, args.below, auto.taps(title), grid)
        console.print(tree(title, found))
        console.print()
    if not args.below:
        console.print('\n'.join(auto.lines), markup=False)


def _config(args: argparse.Namespace) -> Config:
    with quiet():
        from mmdistill_dense.apps.recipes.named import read_config

    try:
        with quiet():
            return read_config(args.config, args.cfg_options)
    except Exception as error:  # a config may run any code
        raise ValueError(f'{args.config} cannot be read: {message_of(error)}') from error


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
