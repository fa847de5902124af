"""Measure what only a GPU can answer until a deadline, what matters most first; benchmarks/gpu_day.sh starts this.

OUT/gpu_day.json is written again after each part, every few seconds and at the end, also that by SIGTERM. It names the
commit and the date. A part gets its limit or what is left, whichever is less.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mmdistill_dense.utils.files import write_json
from mmdistill_dense.utils.process import errors_only, interruptible

SECONDS, SHORT_SECONDS = 570, 3600  # of all parts and the start: a lent machine ends a command after 600
EVERY = 5.0  # seconds between two writings
FILES = 8  # in OUT at most: a lent machine hands no more back
GRACE = 10.0  # seconds between SIGTERM and SIGKILL
TAIL = 3000  # characters of a part's log
CUT, LEFT_OUT, RUNNING, STOPPED = 'ended at its limit', 'left out: no time was left', 'running', 'stopped'

# The pairs of `step`: size, pictures, and the methods of full and of mixed precision, the most used first.
STEPS = {
    'seg': ('deeplabv3_r101_to_r18_cityscapes', '512 1024', 2, 'kd cwd maskd pcd afdcd cirkd mgd dist at fitnet'),
    'seg_amp': ('deeplabv3_r101_to_r18_cityscapes', '512 1024', 2, 'kd cwd maskd pcd afdcd mgd'),
    'det': ('retinanet_r101_to_r50_coco', '800 1344', 2, 'kd cwd fgd pkd maskd pcd mgd crosskd'),
    'det_fp16': ('retinanet_r101_to_r50_coco', '800 1344', 2, 'kd cwd fgd maskd pcd mgd'),
    'camvid_amp': ('deeplabv3_r101_to_r18_camvid', '360 360', 16, 'kd cwd afdcd maskd pcd'),
}
SEG, DET = 'deeplabv3plus_mobilenetv2_to_r18w16_camvid', 'retinanet_mobilenetv2_to_r18w16_bccd'
# The pairs of `methods`; those of large tables are shared by two processes. Without methods: all of the pair.
METHODS = {
    'seg_1': ([SEG], 'kd cwd dist at skd ifvd fitnet'),
    'seg_2': ([SEG], 'cirkd mgd cankd freekd maskd afdcd pcd'),
    'det_1': ([DET], 'kd cwd dist at fitnet pkd fgd mgd'),
    'det_2': ([DET], 'cankd freekd frs defeat crosskd maskd afdcd pcd'),
    'masks': (['mask_rcnn_mobilenetv2_to_r18w16_nuclei'], ''),
    'detr': (['gfl_mobilenetv2_to_r18w16_bccd', 'dino_mobilenetv2_to_r18w16_bccd'], ''),
    'vit': (['dinov2-vits14_to_deeplabv3_r18_camvid'], ''),
}
PRETRAINED = 'pcd simreg featurematch queuekl'
ROW = """\
title: CamVid, DeepLabV3 R-101 to R-18, {iterations} iterations without start weights
control: deeplabv3_r101_to_r18_camvid
teacher: {{config: teachers/deeplabv3_r101_camvid, options: {options}}}
options: {options}
methods: {{kd: {{}}, cwd: {{}}, afdcd: {{}}}}
seeds: [3]
metric: mIoU
jobs: 3
threads: 1
workers: 3
"""


@dataclass
class Part:
    """A command with its limit in seconds; ``name`` is that of the JSON file that it writes, if it writes one."""

    name: str
    limit: float
    command: Sequence[str]
    status: int | str = RUNNING
    seconds: float = 0.0
    section: dict[str, Any] = field(default_factory=dict)
    log: str = ''

    @property
    def errors(self) -> list[str]:
        """The rows of its table that hold an error in place of figures."""
        figures = self.section.get('figures') or {}
        rows = figures if isinstance(figures, dict) else {f'{row["method"]} {row["name"]}': row for row in figures}
        return [name for name, row in rows.items() if 'error' in row]

    @property
    def whole(self) -> bool:
        return self.status == 0 and not self.errors

    def __str__(self) -> str:
        errors = f', errors in {", ".join(self.errors)}' if self.errors else ''
        return f'{self.name}: status {self.status}{errors}, {self.seconds:.0f} s'


def phases(out: Path, work: Path, device: str, short: bool) -> Iterator[list[Part]]:
    """Yield the parts, those that run side by side together: steps alone on the machine, then the rest."""
    amp = 'OptimWrapper' if device == 'cpu' else 'AmpOptimWrapper'
    python = [os.environ.get('PYTHON', sys.executable)]
    slower = 6 if short else 1

    def benchmark(name: str, limit: int, *words: str) -> Part:
        end = ['--device', device, '--json', str(out)]
        return Part(name, slower * limit, [*python, 'tools/benchmark.py', *words, *end])

    def step(name: str, limit: int) -> list[Part]:
        recipe, size, batch, methods = STEPS[name]
        repeats = '5'
        if short:
            size, batch, repeats, methods = '128 128', 2, '1', 'kd'
        words = ['step', '--name', name, '--recipe', recipe, '--size', *size.split(), '--batch', str(batch)]
        changes = ['model.teacher.checkpoint=random.pth']
        changes += [f'optim_wrapper.type={amp}'] if name.endswith(('_amp', '_fp16')) else []
        words += ['--repeats', repeats, '--method', *methods.split(), '--cfg-options', *changes]
        return [benchmark(f'step_{name}', limit, *words)]

    def methods(name: str) -> Part:
        pairs, names = METHODS[name]
        some = ['--method', *names.split()] if names else []
        return benchmark(f'methods_{name}', 170, 'methods', '--name', f'methods_{name}', '--pair', *pairs, *some)

    yield from (step('seg', 100), step('seg_amp', 60), step('det', 80), step('det_fp16', 60))
    yield [methods(name) for name in (['detr'] if short else METHODS)]
    yield step('camvid_amp', 40)
    yield [benchmark('losses', 60, 'losses', *(['--method', 'afdcd', '--size', 'small'] if short else []))]

    program = [*python, '-m', 'mmdistill_dense']
    row = work / 'camvid_row.yaml'
    row.write_text(row_text(amp, short), encoding='utf-8')
    changes = ['train_cfg.max_epochs=1', 'train_dataloader.batch_size=32', 'custom_hooks=[]']
    changes += [f'optim_wrapper.type={amp}', "train_dataloader.dataset.data_prefix=['camvid/images/train']"]
    pretrain = []
    for method in ['pcd'] if short else PRETRAINED.split():
        words = ['train', f'{method}:r18w16_from_mobilenetv2_small', '--work-dir', str(work / method)]
        pretrain.append(Part(f'pretrain_{method}', slower * 150, [*program, *words, '--cfg-options', *changes]))
    yield [Part('camvid_row', slower * 300, [*program, 'suite', 'run', str(row)]), *pretrain]


def row_text(amp: str, short: bool) -> str:
    """Return a suite of CamVid: the whole loop with AMP, workers, validation, checkpoints. Its scores are low."""
    iterations, batch = (2, 2) if short else (500, 16)
    options = {
        'train_dataloader.batch_size': batch, 'auto_scale_lr.base_batch_size': batch, 'train_cfg.max_iters': iterations,
        'train_cfg.val_interval': iterations, 'param_scheduler.0.end': iterations + 1, 'optim_wrapper.type': amp,
        'model.student.pretrained': None,
    }  # fmt: skip
    if short:
        options |= {'val_dataloader.dataset.indices': 4, 'test_dataloader.dataset.indices': 4}
    return ROW.format(iterations=iterations, options=json.dumps(options))


def check_names() -> None:
    """Raise for a method of the tables above that is misspelt or does not fit, which the GPU would tell too late."""
    from tools.benchmark import command, on_device

    for recipe, _, _, names in STEPS.values():
        for method in names.split():
            command.composed(recipe, method)
    for pairs, names in METHODS.values():
        for pair in pairs:
            measured = on_device.PAIRS[pair].split()
            if unknown := {*names.split()}.difference(measured):
                raise ValueError(f'`benchmark methods` does not measure {", ".join(sorted(unknown))} on {pair}')
            for method in names.split() or measured:
                command.composed(pair, method)
    for method in PRETRAINED.split():
        command.read_config(f'{method}:r18w16_from_mobilenetv2_small')


class Day:
    """Runs parts until a deadline, and writes what is there so far."""

    def __init__(self, out: Path, work: Path, deadline: float) -> None:
        self.out, self.work, self.deadline = out, work, deadline
        self.parts: list[Part] = []
        self.head = {'commit': commit(), 'code': code_digest(), 'began': datetime.now(timezone.utc).isoformat()}
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, parts: Sequence[Part]) -> None:
        """Run parts side by side to their ends or limits."""
        files = [self.out / f'{part.name}.json' for part in self.parts]  # which are in gpu_day.json by now
        if sum(file.exists() for file in files) + len(parts) >= FILES:
            self.remove(files)
        self.parts += parts
        began = due = time.time()
        ends = {part.name: min(began + part.limit, self.deadline) for part in parts}
        active = list(parts) if self.deadline - began > 1 else []
        self.running = {part.name: self.start(part) for part in active}
        for part in parts if not active else ():
            part.status = LEFT_OUT
        while active:
            time.sleep(0.1)
            now = time.time()
            ended = [part for part in active if self.running[part.name].poll() is not None or now >= ends[part.name]]
            for part in ended:
                code = self.running[part.name].poll()
                part.status, part.seconds = CUT if code is None else code, now - began
            if any(part.status == CUT for part in ended):
                self.write()  # first: to end them takes seconds that a machine at its limit may not give
            self.end(ended)  # together: at the deadline each may take its seconds to end
            active = [part for part in active if part.name in self.running]
            if ended or now >= due:
                self.write()
                due = now + EVERY
            for part in ended:
                print(part, flush=True)
        self.write()

    def start(self, part: Part) -> subprocess.Popen[bytes]:
        with open(self.work / f'{part.name}.log', 'wb') as log:
            return subprocess.Popen(part.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

    def end(self, parts: Sequence[Part]) -> None:
        """End the processes of parts, by SIGTERM and then by SIGKILL: what they measured is in their files."""
        processes = [self.running.pop(part.name) for part in parts if part.name in self.running]
        for process in processes:
            process.terminate()
        limit = time.time() + GRACE
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, limit - time.time()))
            process.kill()
            process.wait()

    def remove(self, files: Sequence[Path]) -> None:
        self.write()
        for file in files:
            file.unlink(missing_ok=True)

    def write(self) -> None:
        """Write gpu_day.json from the parts' files; of a part without a file, what was read before stays."""
        for part in self.parts:
            with suppress(OSError, ValueError):
                part.section = json.loads((self.out / f'{part.name}.json').read_text(encoding='utf-8'))
            with suppress(OSError):
                part.log = (self.work / f'{part.name}.log').read_text(encoding='utf-8', errors='replace')[-TAIL:]
        rows = {
            part.name: {**part.section, 'status': part.status, 'seconds': part.seconds, 'log': part.log}
            for part in self.parts
        }
        write_json(self.out / 'gpu_day.json', {**self.head, 'parts': rows}, lasting=False)


def commit() -> str:
    """Return the commit, with a mark of changes; 'unknown' where the repository travelled without its history."""
    words = ['git', 'describe', '--always', '--dirty', '--abbrev=12', '--exclude=*']
    with suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    return 'unknown'


def code_digest() -> str:
    """Return a digest of the Python files that are measured, which also tells changes that no commit holds."""
    files = sorted(path for folder in ('mmdistill_dense', 'tools', 'configs') for path in Path(folder).rglob('*.py'))
    digest = hashlib.sha256()
    for path in files:
        digest.update(str(path).encode() + b'\0' + path.read_bytes())
    return digest.hexdigest()[:12]


def main(out: Path) -> int:
    """Run all parts and return the status: 1 if some failed, 124 if some had no time, 130 after a signal."""
    device, short = os.environ.get('DEVICE', 'cuda'), bool(os.environ.get('SHORT'))
    began = float(os.environ.get('STARTED', time.time()))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        day = Day(out, work, began + float(os.environ.get('SECONDS_IN_ALL', SHORT_SECONDS if short else SECONDS)))
        only = os.environ.get('ONLY', '').split()
        try:
            with interruptible():
                day.write()  # a stop while the names are looked up leaves a file too
                if short:
                    with errors_only():
                        check_names()
                for parts in phases(out, work, device, short):
                    day.run([part for part in parts if not only or part.name in only])
        except KeyboardInterrupt:
            print('stopped; what was measured is in gpu_day.json', flush=True)
            return 130
        finally:
            for part in day.parts:
                part.status = STOPPED if part.status == RUNNING else part.status
            day.write()  # first: to end the parts takes seconds, and SIGKILL may follow
            day.end(day.parts)
            day.remove([out / f'{part.name}.json' for part in day.parts])
    for part in day.parts:
        if 'markdown' in part.section:
            print(f'\n{part.section["markdown"]}')
    incomplete = [part for part in day.parts if not part.whole]
    print(f'\nall: {time.time() - began:.0f} s; not whole: {"; ".join(map(str, incomplete)) or "none"}')
    return 0 if not incomplete else 124 if all(part.status in (CUT, LEFT_OUT) for part in incomplete) else 1


if __name__ == '__main__':
    sys.exit(main(Path(sys.argv[1])))
