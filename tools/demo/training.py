"""The demonstration: a teacher, the student alone and the student with the teacher, trained with the shipped
configs."""

import importlib
import io
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console

from mmdistill_dense.config.resolve import find_config
from tools.demo.progress import show_progress

PICTURES = 5
SHORT = 20  # iterations of a short demonstration
SIDE_BY_SIDE = 4  # trainings at the same time, at most
_progress: Any = None  # in a training's process: the queue that takes (title, steps done, steps in all, loss)


@dataclass(frozen=True)
class Task:
    """What is demonstrated.

    Attributes:
        pair: name of the three configs.
        method: folder of the distilled one.
        title: of the score.
        metric: key of the score in what a test returns.
        factor: brings it to percent.
    """

    pair: str
    method: str
    title: str
    metric: str
    factor: float = 1.0

    def config(self, name: str) -> Config:
        """Return the config of ``'teacher'``, ``'alone'`` or ``'distilled'``."""
        folder = {'teacher': 'teachers', 'alone': 'control', 'distilled': self.method}[name]
        return Config.fromfile(find_config(f'mmdistill_dense::{folder}/{self.pair}.py'))

    @cached_property
    def learns_tokens(self) -> bool:
        """Whether the method learns tokens, which depend on the teacher alone."""
        return any(option.type == 'MasKD' for option in self.config('distilled').model.distillers.values())


TASKS = dict(
    seg=Task('toy_seg', 'afdcd', 'mIoU', 'mIoU'),
    det=Task('toy_det', 'maskd', 'box mAP', 'coco/bbox_mAP', 100.0),
)


@dataclass
class Result:
    """What one training gave.

    Attributes:
        name: ``'teacher'``, ``'alone'`` or ``'distilled'``.
        seed: of the run.
        score: on the test pictures, in percent.
        parameters: of the network that is kept.
        seconds: wall time of the training, with what precedes its first iteration.
        predictions: data samples of the first test pictures.
        checkpoint: the last one.
    """

    name: str
    seed: int
    score: float
    parameters: int
    seconds: float
    predictions: list[Any]
    checkpoint: str


def run_demo(task: Task, seeds: Sequence[int], out: Path, console: Console, short: bool = False) -> list[Result]:
    """Train the teacher once, and both students for every seed; one process each, side by side.

    Args:
        task: A member of ``TASKS``.
        seeds: of the students; the teacher's is the first.
        out: folder for logs, checkpoints and the picture.
        console: where the progress is shown; what the libraries print goes to ``out/log.txt``.
        short: some iterations only, to see that everything runs.

    Returns:
        The teacher's result, then for each seed that of the student alone and of the distilled student.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / 'log.txt').write_text('', encoding='utf-8')
    order = [('teacher', seeds[0]), *((name, seed) for seed in seeds for name in ('alone', 'distilled'))]
    waiting, results = list(order), dict[tuple[str, int], Result]()
    running: dict[Future[Result], tuple[str, int]] = {}
    # A fork shares what is imported; CUDA does not survive one.
    fork = 'fork' in multiprocessing.get_all_start_methods() and not torch.cuda.is_available()
    context = multiprocessing.get_context('fork' if fork else 'spawn')
    slots = min(SIDE_BY_SIDE, os.cpu_count() or 1)
    queue = context.SimpleQueue()
    _import_scope(task)
    with ProcessPoolExecutor(slots, context, _start_process, (queue,)) as pool, show_progress(console) as show:
        while waiting or running:
            ready = [run for run in waiting if _is_ready(task, run, seeds[0], results)]
            for name, seed in ready[: slots - len(running)]:
                waiting.remove((name, seed))
                checkpoints = {done: result.checkpoint for (done, _), result in reversed(results.items())}
                running[pool.submit(_train, task, name, seed, out, short, checkpoints)] = (name, seed)
            done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            while not queue.empty():
                show.update(*queue.get())
            show.tick()
            for future in done:
                run = running.pop(future)
                results[run] = result = future.result()
                show.end(_title(*run))
                console.print(f'{_title(*run)}: {task.title} {result.score:.1f} after {result.seconds:.0f} s')
    return [results[run] for run in order]


def _import_scope(task: Task) -> None:
    """Import what every training needs, so that a fork finds it imported."""
    scope = task.config('alone').default_scope
    with redirect_stdout(io.StringIO()):  # notes about optional parts
        importlib.import_module(f'{scope}.utils').register_all_modules(init_default_scope=False)


def _is_ready(task: Task, run: tuple[str, int], first: int, results: dict[tuple[str, int], Result]) -> bool:
    """Return whether what a training starts from is there: the teacher, and MasKD's tokens for further seeds."""
    name, seed = run
    needed = [('teacher', first)] if name == 'distilled' else []
    if needed and task.learns_tokens and seed != first:
        needed.append((name, first))
    return all(earlier in results for earlier in needed)


def folder_of(name: str, seed: int, out: Path) -> Path:
    """Return the work folder of one training."""
    return out / (name if name == 'teacher' else f'{name}_seed{seed}')


def _config(task: Task, name: str, seed: int, out: Path, short: bool) -> Config:
    """Return the shipped config of one training with what the demonstration changes."""
    cfg = task.config(name)
    cfg.work_dir = str(folder_of(name, seed, out))
    cfg.experiment_name = cfg.visualizer.name = f'demo_{name}_{seed}_{time.monotonic_ns()}'
    cfg.randomness.seed = seed
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        # painting is quick, and the workers of a runner that is gone take 5 s each to leave
        loader.update(num_workers=0, persistent_workers=False)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None  # tested once, after the training
    if short:
        _shorten(cfg)
    return cfg


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Append what is printed to a file."""
    with path.open('a', encoding='utf-8', buffering=1) as log, redirect_stdout(log), redirect_stderr(log):
        yield


def _start_process(queue: Any) -> None:
    """Note where a process of the pool reports to."""
    global _progress
    _progress = queue
    torch.set_num_threads(1)  # networks this small run slower on two threads


def _train(task: Task, name: str, seed: int, out: Path, short: bool, checkpoints: dict[str, str]) -> Result:
    """Train and test one network.

    Args:
        task: A member of ``TASKS``.
        name: ``'teacher'``, ``'alone'`` or ``'distilled'``.
        seed: of the run.
        out: folder of the demonstration.
        short: some iterations only.
        checkpoints: the first of each name that has been trained.
    """
    with logged(out / 'log.txt'):
        cfg = _config(task, name, seed, out, short)
        if 'teacher' in checkpoints and name == 'distilled':
            cfg.model.teacher.checkpoint = checkpoints['teacher']
            _share_tokens(cfg, checkpoints.get('distilled'))
        runner = Runner.from_cfg(cfg)
        runner.register_hook(_Report(_title(name, seed)), priority='HIGHEST')
        start = time.monotonic()
        runner.train()
        seconds = time.monotonic() - start
        score = task.factor * float(runner.test()[task.metric])
        predictions = _predict(runner)
    parameters = sum(p.numel() for key, p in runner.model.named_parameters() if not key.startswith('distillers.'))
    checkpoint = Path(cfg.work_dir, 'last_checkpoint').read_text(encoding='utf-8').strip()
    return Result(name, seed, score, parameters, seconds, predictions, checkpoint)


def _share_tokens(cfg: Config, earlier: str | None) -> None:
    """Let every seed but the first use the first one's tokens."""
    for distiller in cfg.model.distillers.values():
        if distiller.type == 'MasKD' and earlier:
            distiller.tokens = earlier


def _shorten(cfg: Config) -> None:
    epochs = cfg.train_cfg.type == 'EpochBasedTrainLoop'
    cfg.train_cfg.update({'max_epochs': 1} if epochs else {'max_iters': SHORT, 'val_interval': SHORT})
    cfg.default_hooks.checkpoint.interval = 1 if epochs else SHORT
    cfg.train_dataloader.dataset.num_images = SHORT * cfg.train_dataloader.batch_size
    cfg.test_dataloader.dataset.num_images = 2 * PICTURES
    for distiller in cfg.model.get('distillers', {}).values():
        if 'learn' in distiller:
            distiller.learn.max_iters = SHORT


@torch.no_grad()
def _predict(runner: Runner) -> list[Any]:
    """Return what is predicted for the first test pictures."""
    dataset: Any = runner.test_dataloader.dataset
    items = [dataset[index] for index in range(PICTURES)]
    batch = {key: [item[key] for item in items] for key in items[0]}
    return [sample.cpu() for sample in runner.model.test_step(batch)]


class _Report(Hook):
    """Reports how far a training is, about once a second."""

    def __init__(self, title: str) -> None:
        self.title, self.said = title, 0.0

    def before_train(self, runner: Runner) -> None:
        _progress.put((self.title, 0, runner.max_iters, float('nan')))

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        done, now = runner.iter + 1, time.monotonic()
        if now - self.said > 1 or done == runner.max_iters:
            self.said = now
            _progress.put((self.title, done, runner.max_iters, float((outputs or {}).get('loss', float('nan')))))


def _title(name: str, seed: int) -> str:
    return f'{name:9s} seed {seed}'
