"""The command line of ``tools/benchmark.py``. Each subcommand measures, prints, and can save JSON."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from mmengine.config import Config

from mmdistill_dense.apps.options import OptionsAction
from mmdistill_dense.apps.recipes.compose import config_text, options_for, recipe_file
from mmdistill_dense.apps.recipes.named import read_config
from mmdistill_dense.utils.process import device_of, errors_only, interruptible
from tools.benchmark import compare_losses, on_device
from tools.benchmark import step as step_cost
from tools.benchmark.loss_cases import METHODS
from tools.benchmark.section import Failure, Section, machine

Measured = TypeVar('Measured')


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, measure, print Markdown; return 1 if a row holds an error, else 0."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    args = _parser().parse_args(words)
    args.command = _again(words)
    torch.set_num_threads(args.threads)
    section = None
    try:
        with errors_only(), interruptible():  # the former hides the log of the teacher's initialisation
            for section in args.measure(args):
                if args.json:
                    section.save(args.json)
    finally:  # also what was measured before Ctrl-C, SIGTERM or an error
        if section is not None:
            print(section, flush=True)
    return int(section is not None and section.failed)


def _again(words: Sequence[str]) -> str:
    """Return the command without ``--json``."""
    kept = [word for before, word in zip(['', *words], words, strict=False) if '--json' not in (before, word)]
    return shlex.join(['python', 'tools/benchmark.py', *kept])


def _tried(measure: Callable[..., Measured], *args: Any) -> Measured | Failure:
    try:
        return measure(*args)
    except Exception as error:  # a finding; the other rows go on
        return {'error': ' '.join(f'{type(error).__name__}: {error}'.split())}  # in a line: it goes into a table


# Each subcommand yields its section again after each row, with all rows so far.


def _losses(args: argparse.Namespace) -> Iterator[Section]:
    sizes = {method: _size(method, args.size) for method in args.method or METHODS}
    name, title = (f'losses_{args.name}', f'Losses {args.name}') if args.name else ('losses', 'Losses')
    rows, size_lines = list[compare_losses.Row | Failure](), list[str]()
    for method, size in sizes.items():
        size_lines.append(f'- {method}: {size}')
        turns = min(size.turns, args.repeats or size.turns)
        for case in METHODS[method].cases(size):
            row = _tried(compare_losses.measure, method, case, turns, args.device)
            rows.append({'method': method, 'name': case.name, **row} if isinstance(row, dict) else row)
            text = '\n\n'.join([compare_losses.as_markdown(rows), '\n'.join(size_lines), compare_losses.NOTE])
            figures = [row if isinstance(row, dict) else asdict(row) for row in rows]
            yield Section(name, title, text, figures, machine(args.device), args.command)


def _size(name: str, asked: str | None) -> compare_losses.Size:
    sizes = METHODS[name].sizes
    if asked and asked not in sizes:
        raise SystemExit(f'--size of {name} must be one of {", ".join(sizes)}, got {asked}')
    return sizes[asked or next(iter(sizes))]


def _step(args: argparse.Namespace) -> Iterator[Section]:
    configs = dict(_configs(args))  # a misspelt name ends the command before anything is measured
    if not configs:
        raise SystemExit('step needs --config, or --recipe and --method')
    costs: dict[str, step_cost.StepCost | Failure] = {}
    for name, config in configs.items():
        config.merge_from_dict(args.cfg_options or {})
        size = args.size and tuple(args.size)
        costs[name] = cost = _tried(step_cost.measure_step, config, args.batch, args.repeats, size, args.device)
        print(f'{name}: {cost["error"] if isinstance(cost, dict) else f"{cost.overhead:.3f}"}', flush=True)
        yield step_cost.section(costs, args.name or args.recipe or next(reversed(configs)), args.device, args.command)


def _configs(args: argparse.Namespace) -> Iterable[tuple[str, Config]]:
    for path in args.config or []:
        yield Path(path).stem, read_config(path)
    for method in args.method or []:
        yield method, composed(args.recipe, method)


def composed(recipe: str | None, method: str) -> Config:
    """Return the config of a method on a recipe, whether or not it is shipped as a file."""
    if recipe is None:
        raise SystemExit('--method needs --recipe')
    options = options_for(method, recipe_file(recipe))
    if options is None:
        raise SystemExit(f'{method} has no options that fit {recipe}')
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, 'config.py')
        file.write_text(config_text(method, recipe, options, file.parent), encoding='utf-8')
        return Config.fromfile(file)


def _methods(args: argparse.Namespace) -> Iterator[Section]:
    pairs = {pair: names.split() for pair, names in on_device.PAIRS.items() if not args.pair or pair in args.pair}
    if unknown := {*(args.method or ())}.difference(*pairs.values()):
        raise SystemExit(f'--method {", ".join(sorted(unknown))}: not measured on {", ".join(pairs)}')
    rows: dict[str, dict[str, Any]] = {}
    for pair, method in [(pair, method) for pair, methods in pairs.items() for method in methods]:
        if args.method and method not in args.method:
            continue
        config = composed(pair, method)
        config.merge_from_dict({'model.teacher.checkpoint': 'random.pth'})  # no such file: random weights
        rows[f'{method}:{pair}'] = _tried(on_device.measure, config, args.device)
        yield on_device.section(rows, args.name or 'methods', args.device, args.command)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description='Measure what distillation costs, and print it as Markdown; --json saves it as well.'
    )
    commands = parser.add_subparsers(dest='what', required=True)
    kept = argparse.ArgumentParser(add_help=False)
    kept.add_argument('--threads', type=int, default=1)
    kept.add_argument('--device', default=device_of(None))
    kept.add_argument('--json', type=Path, metavar='DIR', help='save the figures in this folder, a file per section')
    kept.add_argument('--name', help='name of the section and its file')

    step = commands.add_parser('step', parents=[kept], help='a distilled training step and its parts')
    step.add_argument('--config', nargs='+', help='configs whose model is a DistillModel')
    step.add_argument('--recipe', help='a recipe of configs/_base_/recipes, for --method')
    step.add_argument('--method', nargs='+', help='methods to measure on --recipe')
    step.add_argument('--batch', type=int, help="number of images (default: the config's)")
    size = "size of the images (default: the config's crop, or largest training size)"
    step.add_argument('--size', nargs=2, type=int, metavar=('HEIGHT', 'WIDTH'), help=size)
    step.add_argument('--repeats', type=int, default=3, help='timed turns')
    step.add_argument('--cfg-options', nargs='+', action=OptionsAction, help='overrides: key=value')
    step.set_defaults(measure=_step)

    losses = commands.add_parser('losses', parents=[kept], help='our losses compared with the released formulas')
    losses.add_argument('--method', nargs='+', choices=METHODS, metavar='METHOD', help=f'some of {", ".join(METHODS)}')
    losses.add_argument(
        '--size', help="'small' for a quick test, for pcd also 'cityscapes' (default: the size on the page)"
    )
    losses.add_argument('--repeats', type=int, help='largest number of timed turns (default: by size)')
    losses.set_defaults(measure=_losses)

    text = 'one step of every method: its values beside the CPU, mixed precision, waits'
    methods = commands.add_parser('methods', parents=[kept], help=text)
    methods.add_argument('--pair', nargs='+', choices=on_device.PAIRS, metavar='PAIR', help='some of the pairs')
    methods.add_argument('--method', nargs='+', help='some of the methods (default: all that a pair is measured with)')
    methods.set_defaults(measure=_methods)

    return parser
