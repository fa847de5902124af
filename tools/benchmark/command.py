"""The command line of ``tools/benchmark.py``: each subcommand measures one thing, prints it and can keep it as JSON."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction

from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.recipes.compose import fragment_for, leaf_text, recipe_file
from mmdistill_dense.recipes.named import read_config
from mmdistill_dense.utils.silence import errors_only
from tools.benchmark import gpus as benchmark_gpus
from tools.benchmark import loss_cases, method_cases, page_section, teacher_pass
from tools.benchmark import scale as benchmark_scale
from tools.benchmark import start as benchmark_start
from tools.benchmark import step as benchmark_step
from tools.benchmark.section import Chart, Section, machine

STARTED = 'kd/toy_seg.py'


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, measure, print Markdown.

    Args:
        arguments: Without the program's name. Defaults to those of this process.
    """
    args = _parser().parse_args(arguments)
    args.command = shlex.join(['python', 'tools/benchmark.py', *(sys.argv[1:] if arguments is None else arguments)])
    if hasattr(args, 'threads'):
        torch.set_num_threads(args.threads)
    with errors_only():  # else the teacher's initialisation fills the screen
        args.run(args)


def _show(args: argparse.Namespace, sections: Iterable[Section]) -> None:
    for section in sections:
        print(f'## {section.title}\n\n{section.markdown}\n\n{section.machine}\n', flush=True)
        if args.json:
            section.save(args.json)


def _losses(args: argparse.Namespace) -> None:
    _show(args, (_losses_section(args, name) for name in args.method or sorted(method_cases.METHODS)))


def _losses_section(args: argparse.Namespace, name: str) -> Section:
    method: Any = method_cases.METHODS[name]
    size = args.size or method.DEFAULT_SIZE
    if size not in method.SIZES:
        raise SystemExit(f'--size of {name} must be one of {", ".join(method.SIZES)}, got {size}')
    cases = method.cases(size)
    if args.repeats:
        cases = [replace(case, repeats=min(case.repeats, args.repeats)) for case in cases]
    rows = [loss_cases.measure(case, args.device) for case in cases]
    note = f'Size {size}: {method.describe(size)}. {loss_cases.NOTE}'
    chart = Chart('times faster than the released formula', {row.name: (row.faster,) * 3 for row in rows}, mark=1.0)
    text = f'{loss_cases.as_markdown(rows)}\n\n{note}'
    figures = page_section.plain(rows)
    return Section(f'losses_{name}', f'Losses of {name}', text, figures, machine(args.device), args.command, chart)


def _step(args: argparse.Namespace) -> None:
    costs: dict[str, benchmark_step.StepCost] = {}
    for name, config in _configs(args):
        config.merge_from_dict(args.cfg_options or {})
        size = args.size and tuple(args.size)
        costs[name] = benchmark_step.measure_step(config, args.batch, args.repeats, size, args.device)
        print(f'### {name}\n\n{benchmark_step.as_markdown(costs[name])}\n', flush=True)
        section = benchmark_step.section(costs, args.name or args.recipe or name, args.device, args.command)
        if args.json:  # what is measured is kept, whatever happens to the next
            section.save(args.json)
    if not costs:
        raise SystemExit('step needs --config, or --recipe and --method')
    _show(args, [section])


def _configs(args: argparse.Namespace) -> Iterable[tuple[str, Config]]:
    for path in args.config or []:
        yield Path(path).stem, read_config(path)
    for method in args.method or []:
        yield method, _composed(args.recipe, method)


def _composed(recipe: str | None, method: str) -> Config:
    """Return the config of a recipe with a method's fragment, whether or not there is such a leaf."""
    if recipe is None:
        raise SystemExit('--method needs --recipe')
    fragment = fragment_for(method, recipe_file(recipe))
    if fragment is None:
        raise SystemExit(f'{method} has no fragment that fits {recipe}')
    with tempfile.TemporaryDirectory() as folder:
        leaf = Path(folder, 'leaf.py')
        leaf.write_text(leaf_text(method, recipe, fragment, leaf.parent), encoding='utf-8')
        return Config.fromfile(leaf)


def _teacher(args: argparse.Namespace) -> None:
    size = tuple(args.size)
    options = (args.batch, size, args.repeats, args.device, args.compile)
    for name, make in _teachers(args):
        cost = teacher_pass.measure_teacher(make, *options)
        _show(args, [teacher_pass.section(cost, args.name or name, args.device, args.command)])


def _teachers(args: argparse.Namespace) -> Iterable[tuple[str, Any]]:
    if args.cfg:
        yield Path(args.cfg).stem, lambda: _tapped(args.cfg, args.taps)
        return
    config = read_config(args.config)
    for name in teacher_pass.teachers_of(config):
        yield Path(args.config).stem, lambda name=name: teacher_pass.teachers_of(config)[name]


def _tapped(cfg: str, taps: Sequence[str]) -> FrozenTeacher:
    teacher = FrozenTeacher({'cfg': cfg})
    teacher.taps = teacher_pass.parse_taps(taps)
    return teacher


def _start(args: argparse.Namespace) -> None:
    leaf = args.config or str(benchmark_start.configs() / STARTED)
    files = [Path(name) for name in args.construction or []]
    _show(args, [benchmark_start.section(benchmark_start.measure(Path(leaf), files, args.repeats), args.command)])


def _scale(args: argparse.Namespace) -> None:
    options = {'methods': args.method} if args.method else {}
    rows = benchmark_scale.measure(args.device, args.repeats, over=args.over, **options)
    text = f'{benchmark_scale.as_markdown(rows)}\n\n{benchmark_scale.NOTE}'
    figures, chart = benchmark_scale.figures(rows), benchmark_scale.chart(rows)
    _show(args, [Section('scale', 'Scale', text, figures, machine(args.device), args.command, chart)])


def _gpus(args: argparse.Namespace) -> None:
    if args.recipe:
        configs = ((method, _composed(args.recipe, method)) for method in args.method or [])
        recipe = benchmark_gpus.measure(args.recipe, configs, args.batch, tuple(args.size), args.repeats)
        text, figures = benchmark_gpus.as_markdown([recipe]), asdict(recipe)
        _show(args, [Section(args.recipe, f'GPUs: {args.recipe}', text, figures, machine('cpu'), args.command)])
    if args.page:
        kept = [Section.read(path).figures for path in sorted(args.json.glob('*.json'))] if args.json else []
        if not kept:
            raise SystemExit('--page needs --json DIR, a folder with what --recipe measured')
        benchmark_gpus.write(args.page, [benchmark_gpus.Recipe.read(figures) for figures in kept])


def _report(args: argparse.Namespace) -> None:
    print(page_section.write(args.folder, args.out))


def _all(args: argparse.Namespace) -> None:
    page_section.run_all(args.folder, args.threads, args.device, args.only)
    if args.out:
        _report(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest='what', required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument('--threads', type=int, default=1)
    shared.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    shared.add_argument('--json', type=Path, metavar='DIR', help='keep the figures in this folder, a file per section')
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument('--name', help='of the section and its file')
    named.add_argument('--repeats', type=int, default=3, help='timed turns')

    losses = commands.add_parser('losses', parents=[shared], help='ours against the released formulas')
    losses.add_argument('--method', nargs='+', choices=sorted(method_cases.METHODS), help='default: all')
    sizes = '; '.join(f'{name}: {", ".join(method.SIZES)}' for name, method in method_cases.METHODS.items())
    losses.add_argument('--size', help=f"{sizes}. Default: the method's own")
    losses.add_argument('--repeats', type=int, help='at most so many timed turns; default: as many as the case has')
    losses.set_defaults(run=_losses)

    step = commands.add_parser('step', parents=[shared, named], help='the parts of a distilled training step')
    step.add_argument('--config', nargs='+', help='configs whose model is a DistillModel')
    step.add_argument('--recipe', help='a recipe of configs/control, with')
    step.add_argument('--method', nargs='+', help='methods')
    step.add_argument('--batch', type=int, help="images; default the config's")
    size = "of the images; default the config's crop, or largest training size"
    step.add_argument('--size', nargs=2, type=int, metavar=('HEIGHT', 'WIDTH'), help=size)
    step.add_argument('--cfg-options', nargs='+', action=DictAction, help='overrides: key=value')
    step.set_defaults(run=_step)

    teacher = commands.add_parser('teacher', parents=[shared, named], help="a teacher's forward, each acceleration")
    which = teacher.add_mutually_exclusive_group(required=True)
    which.add_argument('--config', help='its teachers, with the taps of its distillers')
    which.add_argument('--cfg', help="a network, e.g. 'mmdet::retinanet/retinanet_r101_fpn_1x_coco.py'")
    teacher.add_argument('--taps', nargs='+', default=['backbone'], help='of --cfg')
    teacher.add_argument('--batch', type=int, default=1)
    teacher.add_argument('--size', nargs=2, type=int, default=(256, 512), metavar=('HEIGHT', 'WIDTH'))
    teacher.add_argument('--compile', action='store_true', help='compiled too; takes minutes')
    teacher.set_defaults(run=_teacher)

    start = commands.add_parser('start', parents=[shared, named], help='imports, and the way to the first iteration')
    start.add_argument('--config', help=f'of one unnamed teacher; default configs/{STARTED}')
    start.add_argument('--construction', nargs='+', metavar='CONFIG', help='how long their models take to be built')
    start.set_defaults(run=_start)

    scale = commands.add_parser('scale', parents=[shared], help='cost against batch, size, channels, tokens, queue')
    scale.add_argument('--method', nargs='+', choices=sorted(benchmark_scale.SUBJECTS), help='default: all')
    axes = '; '.join(f'{name}: {", ".join(subject.axes)}' for name, subject in benchmark_scale.SUBJECTS.items())
    scale.add_argument('--over', nargs='+', help=f'{axes}. Default: all')
    scale.add_argument('--repeats', type=int, default=3, help='timed turns')
    scale.set_defaults(run=_scale)

    gpus = commands.add_parser('gpus', help='what full-size training would take on GPUs: docs/distributed.md')
    gpus.add_argument('--recipe', help='a recipe of configs/control to measure on the CPU, with')
    gpus.add_argument('--method', nargs='+', help='methods')
    gpus.add_argument('--batch', type=int, default=2, help='pictures of a measured step')
    gpus.add_argument('--size', nargs=2, type=int, default=(256, 256), metavar=('HEIGHT', 'WIDTH'), help='of them')
    gpus.add_argument('--repeats', type=int, default=3, help='timed turns')
    gpus.add_argument('--threads', type=int, default=1)
    gpus.add_argument('--json', type=Path, metavar='DIR', help='keep the figures in this folder, a file per recipe')
    gpus.add_argument('--page', type=Path, help='renew the part of this page that tells the figures in --json')
    gpus.set_defaults(run=_gpus)

    report = commands.add_parser('report', help='one page and its pictures from a folder of JSON files')
    report.add_argument('folder', type=Path)
    report.add_argument('--out', type=Path, default=Path('docs/performance.md'))
    report.set_defaults(run=_report)

    everything = commands.add_parser('all', help='everything that docs/performance.md shows, each in its own process')
    everything.add_argument('folder', type=Path)
    everything.add_argument('--threads', type=int, default=1)
    everything.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    everything.add_argument('--only', nargs='+', metavar='NAME', help=f'of {", ".join(page_section.PLAN)}')
    everything.add_argument('--out', type=Path, help='write the page there too')
    everything.set_defaults(run=_all)
    return parser
