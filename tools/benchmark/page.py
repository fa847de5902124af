"""Run all measurements of ``docs/performance.md``, and write the page from them."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path

from tools.benchmark.section import Section

SEG, DET = 'deeplabv3_r101_to_r18_cityscapes', 'retinanet_r101_to_r50_coco'
RANDOM = '--cfg-options model.teacher.checkpoint=random.pth'  # no such file: random weights cost as much
PLAN = {
    'teacher_deeplabv3_r101': (
        'teacher --name deeplabv3_r101 --cfg mmseg::deeplabv3/deeplabv3_r101-d8_4xb2-80k_cityscapes-512x1024.py '
        '--taps backbone[3] --batch 1 --size 256 512 --repeats 2'
    ),
    'teacher_retinanet_r101': (
        'teacher --name retinanet_r101 --cfg mmdet::retinanet/retinanet_r101_fpn_1x_coco.py --taps neck '
        '--batch 2 --size 256 256 --repeats 2'
    ),
    'step_seg': f'step --name seg --recipe {SEG} --method kd cwd maskd pcd --batch 2 --size 256 512 --repeats 2',
    'step_seg_pixels': (
        f'step --name seg_pixels --recipe {SEG} --method kd afdcd cirkd pcd --batch 2 --size 256 512 --repeats 2'
    ),
    'step_det': f'step --name det --recipe {DET} --method kd cwd maskd pcd --batch 2 --size 256 256 --repeats 2',
    'step_seg_more': (
        f'step --name seg_more --recipe {SEG} --method kd cankd freekd --batch 2 --size 256 512 --repeats 1 {RANDOM}'
    ),
    'step_det_more': (
        f'step --name det_more --recipe {DET} --method cwd cankd freekd crosskd defeat frs --batch 2 --size 256 256 '
        f'--repeats 2 {RANDOM}'
    ),
    'step_rcnn': (
        'step --name rcnn --config kd:mask_rcnn_r101_to_r50_coco:masks kd:mask_rcnn_r101_to_r50_coco '
        f'defeat:faster_rcnn_r101_to_r50_coco --batch 2 --size 256 256 --repeats 2 {RANDOM}'
    ),
    'step_detr': (
        'step --name detr --config configs/kddetr/dab_detr_r50_to_r18_coco.py configs/kddetr/dino_r50_to_r18_coco.py '
        f'--batch 2 --size 256 256 --repeats 2 {RANDOM}'
    ),
    'losses': 'losses',
}
"""The subcommands of tools/benchmark.py that `all` runs, by the name of their section."""

TOOL = Path(__file__).parents[1] / 'benchmark.py'
ORDER = ('step', 'teacher', 'losses', 'methods')
INTRODUCTION = """# Performance

A distilled step costs at least the student's own step plus the teacher's forward pass up to its last tap. This page
shows what it costs beyond that, what makes the teacher cheaper, and how our losses compare with the released
formulas. One command measures everything and writes the page, with or without a GPU:

    mmdistill benchmark all work_dirs/benchmark --out docs/performance.md

Each section names the command that repeats only that section. With `--json DIR` that command saves its figures, and
`mmdistill benchmark report DIR` writes the page from them. The works of a section take turns; each median is
followed by its range. Ratios carry over to other machines far better than seconds.
"""


def run_all(folder: Path, threads: int, device: str, only: Collection[str] | None = None) -> None:
    """Run all or some parts of the plan, each in its own process, and save every section in the folder.

    Raises:
        SystemExit: For an unknown name, or at the end if a part failed.
    """
    names = list(PLAN if only is None else only)
    if unknown := [name for name in names if name not in PLAN]:
        raise SystemExit(f'{", ".join(unknown)}: not part of the benchmark, which is {", ".join(PLAN)}')
    failed = []
    for name in names:
        options = ['--threads', str(threads), '--device', device, '--json', str(folder)]
        begin = time.time()
        done = subprocess.run([sys.executable, TOOL, *shlex.split(PLAN[name]), *options], check=False)
        print(f'{name}: {time.time() - begin:.0f} s\n', flush=True)
        failed += [name] if done.returncode else []
    if failed:
        raise SystemExit(f'failed: {", ".join(failed)}')


def write_page(folder: Path, out: Path) -> Path:
    """Write the page from the sections that a folder holds.

    Raises:
        FileNotFoundError: Without any JSON file in the folder.
    """
    sections = [Section.read(path) for path in sorted(folder.glob('*.json'))]
    if not sections:
        raise FileNotFoundError(f'{folder} holds no JSON file; tools/benchmark.py all {folder} writes them')
    sections.sort(key=lambda section: ORDER.index(section.name.split('_')[0]))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text('\n'.join([INTRODUCTION, *map(str, sections)]), encoding='utf-8')
    return out
