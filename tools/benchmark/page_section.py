"""Everything that the benchmark measures, in one run, and the page that shows it."""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from tools.benchmark.section import Chart, Section

SEG, DET = 'deeplabv3_r101_to_r18_cityscapes', 'retinanet_r101_to_r50_coco'
BIGGEST = ('upernet_swin_b_to_pspnet_r18_ade20k', 'faster_rcnn_cascade_mask_x101_to_r50_coco', DET, SEG)
PLAN = {
    'start': f'start --repeats 2 --construction {" ".join(f"afdcd:{name}" for name in BIGGEST)}',
    'teacher_deeplabv3_r101': (
        'teacher --name deeplabv3_r101 --cfg mmseg::deeplabv3/deeplabv3_r101-d8_4xb2-80k_cityscapes-512x1024.py '
        '--taps backbone[3] --batch 1 --size 256 512 --repeats 2'
    ),
    'teacher_retinanet_r101': (
        'teacher --name retinanet_r101 --cfg mmdet::retinanet/retinanet_r101_fpn_1x_coco.py --taps neck '
        '--batch 2 --size 256 256 --repeats 2'
    ),
    'step_seg': f'step --name seg --recipe {SEG} --method kd cwd maskd pcd --batch 2 --size 256 512 --repeats 2',
    'step_afdcd': f'step --name afdcd --recipe {SEG} --method afdcd --batch 2 --size 256 512 --repeats 2',
    'step_det': f'step --name det --recipe {DET} --method kd cwd maskd pcd --batch 2 --size 256 256 --repeats 2',
    'losses': 'losses --method afdcd maskd pcd cirkd fgd fitnet ifvd mgd pkd skd --repeats 2',
    'losses_small': 'losses --method at cwd dist kd ld --repeats 15',  # of milliseconds, which need more turns
    'scale': 'scale --repeats 1',
}
"""What `all` runs: subcommands of tools/benchmark.py."""

ORDER = ('step', 'teacher', 'losses', 'scale', 'start')
INTRODUCTION = """# Performance

A distilled step cannot cost less than the student's own step and the teacher's forward pass up to its last tap. What it
costs beyond that, what makes the teacher cheaper, and how our losses compare with the released formulas. Written by one
command, on this machine as on any other, with a GPU or without one:

    python tools/benchmark.py all work_dirs/benchmark --out docs/performance.md

`report` writes the page again from the figures kept; each section names the command that repeats it alone (with
`--json DIR` it is kept too). Everything is measured in turns, the medians stand beside their ranges; ratios hold on
other machines far better than seconds do.
"""


def run_all(folder: Path, threads: int, device: str, only: Collection[str] | None = None) -> None:
    """Run the plan, a process each, and keep every section in the folder.

    Args:
        folder: For the JSON files.
        threads: Of torch.
        device: ``'cpu'`` or ``'cuda'``.
        only: Names of the plan. Defaults to all of it.

    Raises:
        SystemExit: For an unknown name; or at the end, when some part failed.
    """
    names = list(PLAN if only is None else only)
    unknown = [name for name in names if name not in PLAN]
    if unknown:
        raise SystemExit(f'{", ".join(unknown)}: not part of the benchmark, which is {", ".join(PLAN)}')
    failed = []
    for name in names:
        options = ['--threads', str(threads), '--device', device, '--json', str(folder)]
        begin = time.time()
        done = subprocess.run([sys.executable, _tool(), *shlex.split(PLAN[name]), *options], check=False)
        print(f'{name}: {time.time() - begin:.0f} s\n', flush=True)
        failed += [name] if done.returncode else []
    if failed:
        raise SystemExit(f'failed: {", ".join(failed)}')


def _tool() -> str:
    from mmdistill_dense.recipes.compose import configs

    return str(configs().parent / 'tools' / 'benchmark.py')


def write(folder: Path, out: Path) -> Path:
    """Write the page and, beside it in ``images``, a picture per section that has one.

    Raises:
        FileNotFoundError: Without any JSON file in the folder.
    """
    sections = [Section.read(path) for path in sorted(folder.glob('*.json'))]
    if not sections:
        raise FileNotFoundError(f'{folder} holds no JSON file; tools/benchmark.py all {folder} writes them')
    sections.sort(key=lambda section: ORDER.index(section.name.split('_')[0]))
    out.parent.mkdir(parents=True, exist_ok=True)
    parts = [INTRODUCTION]
    for section in sections:
        parts += [f'## {section.title}\n', f'{section.markdown}\n', f'{section.machine}. `{_again(section)}`\n']
        if section.chart:
            picture = out.parent / 'images' / f'performance_{section.name}.png'
            draw(section.chart, section.title, picture)
            parts.append(f'![{section.title}](images/{picture.name})\n')
    out.write_text('\n'.join(parts), encoding='utf-8')
    return out


def _again(section: Section) -> str:
    """The command without where it kept its figures."""
    words = shlex.split(section.command)
    if '--json' in words:
        at = words.index('--json')
        del words[at : at + 2]
    return shlex.join(words)


def draw(chart: Chart, title: str, path: Path) -> None:
    """Write a PNG: a bar per label, the first on top."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.32 * len(chart.bars)), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    places = range(len(chart.bars))
    medians, lows, highs = zip(*chart.bars.values(), strict=True)
    below = [m - low for m, low in zip(medians, lows, strict=True)]
    above = [high - m for m, high in zip(medians, highs, strict=True)]
    axes.barh(places, medians, xerr=[below, above], color='#1f4e79', ecolor='#888888', height=0.65)
    for place, value in zip(places, medians, strict=True):
        axes.annotate(f' {value:.3g}', (value, place), va='center', fontsize=8)
    if chart.mark is not None:
        axes.axvline(chart.mark, color='#c55a11', linewidth=1)
    axes.set_yticks(places, list(chart.bars), fontsize=9)
    axes.set_ylim(len(chart.bars) - 0.4, -0.6)
    axes.set_xlabel(chart.unit)
    axes.set_title(title, fontsize=10, loc='left')
    axes.margins(x=0.12)
    for side in ('top', 'right', 'left'):
        axes.spines[side].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def plain(rows: Sequence[Any]) -> list[Any]:
    """Return rows, data classes or not, for JSON."""
    return [dataclasses.asdict(row) if dataclasses.is_dataclass(row) else row for row in rows]  # type: ignore[arg-type]
