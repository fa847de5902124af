"""The demonstration: a teacher, the student alone and the student with the teacher, trained with the shipped
configs."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mmdistill_dense.zoo import find_config

LEAVES = {'teacher': 'teachers', 'alone': 'control', 'distilled': 'afdcd'}
PICTURES = 5
SHORT = 20  # iterations of a short demonstration


@dataclass
class Result:
    """What one training gave.

    Attributes:
        name: ``'teacher'``, ``'alone'`` or ``'distilled'``.
        seed: of the run.
        miou: mean IoU on the test pictures, in percent.
        parameters: of the network that is kept.
        seconds: wall time of the training.
        maps: predicted label maps of the first test pictures.
        checkpoint: the last one.
    """

    name: str
    seed: int
    miou: float
    parameters: int
    seconds: float
    maps: list[np.ndarray]
    checkpoint: str


def run_demo(seeds: Sequence[int], out: Path, console: Console, short: bool = False) -> list[Result]:
    """Train the teacher once, then both students for every seed.

    Args:
        seeds: of the students; the teacher's is the first.
        out: folder for logs, checkpoints and the picture.
        console: where the progress is shown; what the libraries print goes to ``out/log.txt``.
        short: some iterations only, to see that everything runs.

    Returns:
        The teacher's result, then for each seed that of the student alone and of the distilled student.
    """
    out.mkdir(parents=True, exist_ok=True)
    with open(out / 'log.txt', 'w', encoding='utf-8', buffering=1) as log:
        teacher = _run('teacher', seeds[0], out, console, log, short)
        results = [teacher]
        for seed in seeds:
            for name in ('alone', 'distilled'):
                results.append(_run(name, seed, out, console, log, short, teacher.checkpoint))
    return results


def shown_pictures(count: int = PICTURES) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the first test pictures: (image (H, W, 3) RGB, label map (H, W))."""
    from mmdistill_dense.datasets.painter import paint

    dataset = Config.fromfile(find_config('mmdistill_dense::control/toy_seg.py')).test_dataloader.dataset
    pictures = [paint(dataset.seed, index, **dataset.get('painting', {})) for index in range(count)]
    return [(picture.image[..., ::-1], picture.labels) for picture in pictures]


def _run(
    name: str, seed: int, out: Path, console: Console, log: TextIO, short: bool, teacher: str | None = None
) -> Result:
    """Train and test one network."""
    cfg = Config.fromfile(find_config(f'mmdistill_dense::{LEAVES[name]}/toy_seg.py'))
    cfg.work_dir = str(out / (name if name == 'teacher' else f'{name}_seed{seed}'))
    cfg.experiment_name = cfg.visualizer.name = f'demo_{name}_{seed}_{time.monotonic_ns()}'
    cfg.randomness.seed = seed
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        # painting is quick, and the workers of a runner that is gone take 5 s each to leave
        loader.update(num_workers=0, persistent_workers=False)
    if teacher is not None:
        cfg.model.teacher.checkpoint = teacher
    if short:
        _shorten(cfg)
    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        runner = Runner.from_cfg(cfg)
        with _progress(f'{name:9s} seed {seed}', cfg.train_cfg.max_iters, console) as hook:
            runner.register_hook(hook, priority='LOWEST')
            start = time.monotonic()
            runner.train()
            seconds = time.monotonic() - start
        miou = float(runner.test()['mIoU'])
        maps = _predict(runner)
    parameters = sum(p.numel() for key, p in runner.model.named_parameters() if not key.startswith('distillers.'))
    checkpoint = Path(cfg.work_dir, 'last_checkpoint').read_text(encoding='utf-8').strip()
    console.print(f'{name:9s} seed {seed}: mIoU {miou:.1f} after {seconds:.0f} s')
    return Result(name, seed, miou, parameters, seconds, maps, checkpoint)


def _shorten(cfg: Config) -> None:
    cfg.train_cfg.update(max_iters=SHORT, val_interval=SHORT)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.num_images = 2 * PICTURES


@torch.no_grad()
def _predict(runner: Runner) -> list[np.ndarray]:
    """Return the label maps predicted for the first test pictures."""
    dataset: Any = runner.test_dataloader.dataset
    items = [dataset[index] for index in range(PICTURES)]
    batch = {key: [item[key] for item in items] for key in items[0]}
    return [sample.pred_sem_seg.data.squeeze(0).cpu().numpy() for sample in runner.model.test_step(batch)]


class _Report(Hook):
    """Tells a function how far the training is."""

    def __init__(self, tell: Any) -> None:
        self.tell = tell

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.tell(runner.iter + 1, float((outputs or {}).get('loss', float('nan'))))


@contextlib.contextmanager
def _progress(title: str, total: int, console: Console) -> Iterator[_Report]:
    """Yield the hook that keeps a live line on a terminal, or prints a line now and then elsewhere."""
    if not console.is_terminal:
        said = [time.monotonic()]

        def tell(done: int, loss: float) -> None:
            if time.monotonic() - said[0] > 10:
                said[0] = time.monotonic()
                console.print(f'{title}  {done}/{total}  loss {loss:.3f}')

        yield _Report(tell)
        return
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    loss_column = TextColumn('loss {task.fields[loss]:.3f}')
    with Progress(*columns, TimeRemainingColumn(), loss_column, console=console, transient=True) as progress:
        task = progress.add_task(title, total=total, loss=float('nan'))
        yield _Report(lambda done, loss: progress.update(task, completed=done, loss=loss))
