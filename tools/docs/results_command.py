"""The command line of ``tools/results.py``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mmdistill_dense.apps.suite.definition import Definition, load
from mmdistill_dense.utils.process import errors_only
from mmdistill_dense.utils.validate import text_of
from tools.docs import across, beside, compare, publish, records


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line. Return 1 if scores differ or the definition cannot work."""
    args = _parser().parse_args(argv)
    try:
        with errors_only():
            return args.command(args) or 0
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        print(f'{type(error).__name__}: {text_of(error)}', file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='results.py', description='The results of suites that this repository shows')
    commands = parser.add_subparsers(required=True, metavar='COMMAND')

    def command(name: str, function: object, text: str, many: str | None = None) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=function)
        added.add_argument('definition', type=Path, nargs=many, help='.yaml, .py or .json, see docs/suite.md')
        added.add_argument(
            '--root', type=Path, default=Path(), metavar='DIR', help='the repository (default: this folder)'
        )
        added.add_argument(
            '--work-dirs', type=Path, metavar='DIR', help="folder that holds the suites' folders (default: by `out`)"
        )
        return added

    command('publish', _publish, 'write docs/results.md, the table of the README, scores and pictures anew', '+')
    command('compare', _compare, 'compare the finished runs with the published scores')
    command('beside', _beside, 'print published results beside the rows')
    several = commands.add_parser('across', help='the mean gain of each method over several suites')
    several.set_defaults(command=_across)
    several.add_argument('definitions', type=Path, nargs='+', metavar='definition', help='suites with the same rows')
    several.add_argument('--against', default='control', metavar='ROW', help='compare with this row (default: control)')
    several.add_argument('--out', type=Path, metavar='FILE', help='write the table to this file as well')
    command('restore', _restore, 'restore published results that the suite folder lacks')
    return parser


def _publish(args: argparse.Namespace) -> None:
    publish.main([_at(load(path), args.work_dirs) for path in args.definition], args.root)


def _compare(args: argparse.Namespace) -> int:
    return compare.main(_at(load(args.definition), args.work_dirs), args.root)


def _beside(args: argparse.Namespace) -> None:
    beside.main(_at(load(args.definition), args.work_dirs))


def _restore(args: argparse.Namespace) -> None:
    records.main(_at(load(args.definition), args.work_dirs), args.root)


def _across(args: argparse.Namespace) -> None:
    across.main([load(path) for path in args.definitions], args.against, args.out)


def _at(definition: Definition, work_dirs: Path | None) -> Definition:
    """Return the suite with its folder inside another one."""
    return definition if work_dirs is None else replace(definition, out=work_dirs / definition.out.name)
