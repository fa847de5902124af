"""The demonstration: a teacher, the student alone and the student with the teacher, trained with the shipped
configs."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mmdistill_dense.config.resolve import find_config

PICTURES = 5
SHORT = 20  # iterations of a short demonstration


@dataclass(frozen=True)
class Task:
    """What is demonstrated.

    Attributes:
        leaf: name of the three configs.
        method: folder of the distilled one.
        title: of the score.
        metric: key of the score in what a test returns.
        factor: brings it to percent.
    """

    leaf: str
    method: str
    title: str
    metric: str
    factor: float = 1.0

    def config(self, name: str) -> Config:
        """Return the config of ``'teacher'``, ``'alone'`` or ``'distilled'``."""
        folder = {'teacher': 'teachers', 'alone': 'control', 'distilled': self.method}[name]
        return Config.fromfile(find_config(f'mmdistill_dense::{folder}/{self.leaf}.py'))


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
    """Train the teacher once, then both students for every seed.

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
    with open(out / 'log.txt', 'w', encoding='utf-8', buffering=1) as log:
        teacher = _run(_config(task, 'teacher', seeds[0], out, short), console, log, task)
        results = [teacher]
        for seed in seeds:
            for name in ('alone', 'distilled'):
                cfg = _config(task, name, seed, out, short)
                cfg.model.teacher.checkpoint = teacher.checkpoint
                if name == 'distilled':
                    _share_tokens(cfg, results, console)
                results.append(_run(cfg, console, log, task))
    return results


def folder_of(name: str, seed: int, out: Path) -> Path:
    """Return the work folder of one training."""
    return out / (name if name == 'teacher' else f'{name}_seed{seed}')


def _config(task: Task, name: str, seed: int, out: Path, short: bool) -> Config:
    """Return the shipped config of one training with what the demonstration changes."""
    cfg = task.config(name)
    cfg.work_dir = str(folder_of(name, seed, out))
    cfg.experiment_name = cfg.visualizer.name = f'demo_{name}_{seed}_{time.monotonic_ns()}'
    cfg.randomness.seed = seed
    cfg.demo = dict(name=name, seed=seed)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        # painting is quick, and the workers of a runner that is gone take 5 s each to leave
        loader.update(num_workers=0, persistent_workers=False)
    if short:
        _shorten(cfg)
    return cfg


def _run(cfg: Config, console: Console, log: TextIO, task: Task) -> Result:
    """Train and test one network."""
    name, seed = cfg.demo.name, cfg.demo.seed
    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        runner = Runner.from_cfg(cfg)
        with _progress(f'{name:9s} seed {seed}', console) as hook:
            runner.register_hook(hook, priority='HIGHEST')
            start = time.monotonic()
            runner.train()
            seconds = time.monotonic() - start
        score = task.factor * float(runner.test()[task.metric])
        predictions = _predict(runner)
    parameters = sum(p.numel() for key, p in runner.model.named_parameters() if not key.startswith('distillers.'))
    checkpoint = Path(cfg.work_dir, 'last_checkpoint').read_text(encoding='utf-8').strip()
    console.print(f'{name:9s} seed {seed}: {task.title} {score:.1f} after {seconds:.0f} s')
    return Result(name, seed, score, parameters, seconds, predictions, checkpoint)


def _share_tokens(cfg: Config, results: Sequence[Result], console: Console) -> None:
    """Let every seed but the first use the first one's tokens, which depend on the teacher alone."""
    earlier = [result.checkpoint for result in results if result.name == 'distilled']
    for distiller in cfg.model.distillers.values():
        if distiller.type == 'MasKD' and earlier:
            distiller.tokens = earlier[0]
        elif distiller.type == 'MasKD':
            console.print('distilled: the tokens are learned on the teacher first')


def _shorten(cfg: Config) -> None:
    epochs = cfg.train_cfg.type == 'EpochBasedTrainLoop'
    cfg.train_cfg.update({'max_epochs': 1} if epochs else {'max_iters': SHORT, 'val_interval': SHORT})
    cfg.default_hooks.checkpoint.interval = 1 if epochs else SHORT
    cfg.train_dataloader.dataset.num_images = SHORT * cfg.train_dataloader.batch_size
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.num_images = 2 * PICTURES
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
    """Tells a function how far the training is."""

    def __init__(self, tell: Any) -> None:
        self.tell = tell

    def before_train(self, runner: Runner) -> None:
        self.tell(0, runner.max_iters, float('nan'))

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.tell(runner.iter + 1, runner.max_iters, float((outputs or {}).get('loss', float('nan'))))


@contextlib.contextmanager
def _progress(title: str, console: Console) -> Iterator[_Report]:
    """Yield the hook that keeps a live line on a terminal, or prints a line now and then elsewhere."""
    if not console.is_terminal:
        said = [time.monotonic()]

        def tell(done: int, total: int, loss: float) -> None:
            if time.monotonic() - said[0] > 10:
                said[0] = time.monotonic()
                console.print(f'{title}  {done}/{total}  loss {loss:.3f}')

        yield _Report(tell)
        return
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    loss_column = TextColumn('loss {task.fields[loss]:.3f}')
    with Progress(*columns, TimeRemainingColumn(), loss_column, console=console, transient=True) as progress:
        row = progress.add_task(title, total=None, loss=float('nan'))
        yield _Report(lambda done, total, loss: progress.update(row, completed=done, total=total, loss=loss))
