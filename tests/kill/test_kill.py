"""Runs that are killed in a step, or in the middle of a checkpoint, end in the same bits as an undisturbed one."""

import os
import random
import re
import resource
import signal
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.multiprocessing import ProcessExitedException

from tests import gloo, toys
from tests.payload import unequal

ITERS = 8
SEED = int(os.environ.get('MMDISTILL_KILL_SEED', '8'))
METHODS = dict(
    kd=dict(type='LogitKD', schedule=dict(warmup=4)),
    afdcd=dict(type='AfDCD', pool_size=0, student_tap='backbone[2]'),
    mimic=dict(type='MaskedMimic', clip_max_norm=1.0),
    cirkd=dict(type='CIRKD', pixel_memory=40, region_memory=6, pixel_contrast=30, region_contrast=12),
)
# Places in a checkpoint that hold a path, a clock or the text of the config.
OF_THIS_RUN = re.compile(
    r'(\.(time|cfg|experiment_name|last_ckpt|best_ckpt|exp_name|config|eta)|[/.](data_)?time\._log_history)$'
)
pytestmark = pytest.mark.soak


def config_of(folder: Path) -> Config:
    """Dropout in the head, Af-DCD's random masks, CIRKD's queues, EMA, workers, a validation in between."""
    model = toys.model_config(toys.seg_net('fcn', dropout=0.1), toys.seg_teacher('fcn'), METHODS)
    data = dict(num_workers=2, dataset=dict(num_images=10))  # a finite sampler begins anew after five batches
    config = toys.run_config(
        folder, model, iters=ITERS, train_dataloader=data, train_cfg=dict(val_interval=4),
        default_hooks=dict(checkpoint=dict(max_keep_ckpts=2, save_best='mIoU')),
        custom_hooks=[dict(type='EMAHook', momentum=0.5)],
        optim_wrapper=dict(clip_grad=dict(max_norm=5.0), accumulative_counts=2),
        param_scheduler=[dict(type='PolyLR', power=0.9, by_epoch=False, begin=0, end=ITERS)],
    )  # fmt: skip
    config.train_dataloader.sampler = dict(type='DefaultSampler')
    return config


class Killer(Hook):
    """Ends the process from its third step on: at a call of a function, or at a byte of the next checkpoint."""

    priority = 'VERY_HIGH'

    def __init__(self, how: str, at: int) -> None:
        self.how, self.at, self.steps = how, at, 0

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        self.steps += 1
        if self.steps == 3 and self.how == 'write':
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.at, self.at))
        elif self.steps == 3:
            sys.setprofile(self.count)

    def count(self, *_: Any) -> None:
        """Called by the interpreter at each call and return."""
        self.at -= 1
        if self.at <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


def train(_: int, folder: str, teacher: str, moment: tuple[str, int] | None) -> None:
    """Train in a process of its own, or go on as ``--resume`` does."""
    torch.set_num_threads(1)
    toys.teacher_file = lambda *_, **__: teacher
    config = config_of(Path(folder))
    config.resume = True
    runner = toys.make_runner(None, config)
    if moment:
        runner.register_hook(Killer(*moment), 'VERY_HIGH')
    runner.train()


def checkpoints(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.glob('*.pth') if path.name.startswith(('iter_', 'best_'))}


def differing(first: Path, second: Path) -> list[str]:
    """Places at which the contents of two checkpoints are not equal bit for bit."""
    places = unequal(*(torch.load(path, weights_only=False) for path in (first, second)))
    return [line for line in (line.partition(': ')[0] for line in places) if not OF_THIS_RUN.search(line)]


def test_a_killed_run_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    teacher, stream = toys.teacher_file('fcn'), random.Random(SEED)
    gloo.start(train, str(tmp_path / 'whole'), teacher, None, processes=1)
    expected = checkpoints(tmp_path / 'whole')
    smallest = min(path.stat().st_size for path in expected.values())
    for turn, kills in enumerate((['call'], ['write'], ['call', 'write'])):  # the run that goes on is killed as well
        folder = tmp_path / str(turn)
        for number, how in enumerate(kills):
            at = round(stream.uniform(0.05, 0.95) * smallest) if how == 'write' else stream.randint(1, 30_000)
            print(f'seed {SEED}, turn {turn}: {how} {at}')
            try:
                gloo.start(train, str(folder), teacher, (how, at), processes=1)
                assert number, 'it ended before its first moment'
            except ProcessExitedException as error:
                assert error.signal_name == ('SIGXFSZ' if how == 'write' else 'SIGKILL')
        gloo.start(train, str(folder), teacher, None, processes=1)
        actual = checkpoints(folder)
        assert expected.keys() <= actual.keys() and all(map(zipfile.is_zipfile, actual.values()))
        assert not {name: places for name, path in expected.items() if (places := differing(actual[name], path))}
