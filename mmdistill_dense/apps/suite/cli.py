"""The options of ``suite``. Nothing slow is imported before the arguments are read."""

import argparse
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

from mmdistill_dense.utils.process import errors_only
from mmdistill_dense.utils.validate import counted


def fill_suite(parser: argparse.ArgumentParser) -> None:
    parser.description = 'One fair table of distillation methods'
    commands = parser.add_subparsers(required=True, metavar='COMMAND')

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=_suite, command=name, speaks=True, raises=False)
        many = '?' if name == 'list' else None
        added.add_argument('definition', type=Path, nargs=many, help='.yaml, .py or .json, see docs/suite.md')
        return added

    run = command('run', 'train and test all unfinished runs')
    run.add_argument('--jobs', type=counted, help='number of runs side by side (default: of the definition)')
    run.add_argument(
        '--threads',
        type=counted,
        help='threads of each run (default: of the definition, or an equal part of the cores)',
    )
    run.add_argument('--only', nargs='+', default=[], metavar='NAME', help='rows, with the runs that they need')
    run.add_argument('--seeds', nargs='+', type=int, default=[], help='only these seeds')
    command('list', 'show the methods that fit, and the runs with their state; without a definition: all methods')
    write_table = command('table', 'write the table of the finished runs')
    write_table.add_argument('--out', type=Path, metavar='DIR', help='folder for the files (default: of the suite)')
    job = command('job', 'do one run; `run` calls this')
    job.add_argument('name', help='a row of the table')
    job.add_argument('--seed', type=int, help='its seed; a teacher has only one')
    job.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='as for train')
    job.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by launchers')
    job.add_argument('--attended', action='store_true', help='end when standard input closes')


def _suite(args: argparse.Namespace) -> int:
    """Run a command; 1 if a run failed, 130 after an interruption."""
    try:
        with nullcontext() if args.command in ('run', 'job') else errors_only():  # a training keeps its log
            return getattr(import_module('mmdistill_dense.apps.suite.actions'), f'suite_{args.command}')(args) or 0
    except RuntimeError as error:
        if args.raises:
            raise
        raise ValueError(str(error)) from error  # told without a traceback
