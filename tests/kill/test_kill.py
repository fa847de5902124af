"""Runs that are killed at moments drawn from a seed (MMDISTILL_KILL_SEED) end in the same bits as undisturbed ones."""

import os
import random
import re
import resource
import signal
import sys
import zipfile
from collections.abc import Callable, Mapping, Sized
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import DATA_SAMPLERS
from torch.multiprocessing import ProcessExitedException
from torch.utils.data import WeightedRandomSampler

from mmdistill_dense.distillers.maskd import learning, token_distiller
from tests import gloo, toys
from tests.distillers.maskd.tokens import LEARN, LOGITS
from tests.payload import unequal
from tests.pretrain import runs as pretrain
from tests.pretrain.files import TABLE

KEEP_TWO = dict(checkpoint=dict(max_keep_ckpts=2))  # as every schedule that is shipped
EMA = [dict(type='EMAHook', momentum=0.5)]
QUEUES = dict(type='CIRKD', pixel_memory=40, region_memory=6, pixel_contrast=30, region_contrast=12)
SEG = dict(
    kd=dict(type='LogitKD', schedule=dict(warmup=4)),
    afdcd=dict(type='AfDCD', pool_size=0, student_tap='backbone[2]'),
    mimic=dict(type='MaskedMimic', clip_max_norm=1.0),
    cirkd=QUEUES,
)
DET = dict(
    rpn=dict(type='LogitKD', student_tap='rpn_head.rpn_cls', activation='sigmoid'),
    mimic=dict(type='MaskedMimic', student_tap='neck[:2]'),
)
ITERS = 8
SEED = int(os.environ.get('MMDISTILL_KILL_SEED', '8'))
WAYS: dict[str, list[Any]] = dict(
    sampler=['InfiniteSampler', 'DefaultSampler', 'WeightedSampler'],
    workers=[(0, False), (2, False), (2, True)],  # and whether they persist
    accumulated=[1, 2, 1],
    implementation=[dict(), dict(foreach=True), dict(fused=True)],
)
"""In which the data come and steps are taken; each of a row is met."""


def draw_ways() -> list[dict[str, Any]]:
    """As many combinations as a row of WAYS has entries, drawn from the seed."""
    stream = random.Random(SEED)
    columns = [stream.sample(row, len(row)) for row in WAYS.values()]
    return [dict(zip(WAYS, combination, strict=True)) for combination in zip(*columns, strict=True)]


@DATA_SAMPLERS.register_module(force=True)
class WeightedSampler(WeightedRandomSampler):
    """Some pictures more often; it draws from torch's global stream, and ends after seven."""

    def __init__(self, dataset: Sized, seed: int | None = None) -> None:
        super().__init__([1.0 + index for index in range(len(dataset))], 7)


def seg(way: Mapping[str, Any], folder: Path) -> Config:
    """Iterations: dropout in the head, Af-DCD's random masks, CIRKD's queues, EMA, a validation in between."""
    model = toys.model_config(toys.seg_net('fcn', dropout=0.1), toys.seg_teacher('fcn'), SEG)
    workers, persistent = way['workers']
    config = toys.run_config(
        folder,
        model,
        iters=ITERS,
        train_dataloader=dict(
            num_workers=workers,
            persistent_workers=persistent,
            dataset=dict(num_images=10),  # a finite sampler begins anew after five batches
        ),
        train_cfg=dict(val_interval=4),
        default_hooks=dict(checkpoint=dict(max_keep_ckpts=2, save_best='mIoU')),
        custom_hooks=EMA,
        optim_wrapper=dict(
            clip_grad=dict(max_norm=5.0), accumulative_counts=way['accumulated'], optimizer=way['implementation']
        ),
        param_scheduler=[dict(type='PolyLR', power=0.9, by_epoch=False, begin=0, end=ITERS)],
    )
    config.train_dataloader.sampler = dict(type=way['sampler'])
    return config


def det(folder: Path) -> Config:
    """Epochs: pictures drawn by class in two workers, proposals sampled at random, random masks, EMA, a rate that falls
    by epochs."""
    model = toys.model_config(toys.det_net('faster_rcnn'), toys.det_teacher('faster_rcnn'), DET)
    config = toys.det_run_config(
        folder,
        model,
        default_hooks=dict(checkpoint=dict(by_epoch=True, interval=1, max_keep_ckpts=2)),
        train_dataloader=dict(num_workers=2),
        log_processor=dict(by_epoch=True),
        custom_hooks=EMA,
        param_scheduler=[dict(type='MultiStepLR', by_epoch=True, milestones=[1, 2], gamma=0.5)],
    )
    config.train_dataloader.sampler = dict(type='ClassAwareSampler')
    config.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=3)
    return config


def tokens(folder: Path) -> Config:
    """MasKD's first stage, which learns for longer than the student is trained afterwards."""
    distiller = dict(LOGITS, learn=dict(LEARN, max_iters=12, save_interval=3, optimizer=dict(type='Adam', lr=0.01)))
    model = toys.model_config(toys.seg_net('fcn', dropout=0.1), toys.seg_teacher('fcn'), dict(maskd=distiller))
    return toys.run_config(folder, model, iters=4, default_hooks=KEEP_TWO)


def pretraining(folder: Path) -> Config:
    """PCD without labels: two augmented views, a queue, LARS, a backbone alone as the student."""
    return pretrain.config(folder, epochs=3, custom_hooks=EMA, default_hooks=KEEP_TWO)


DRAWN = {f'seg {number}': drawn_options for number, drawn_options in enumerate(draw_ways())}
KINDS: dict[str, Callable[[Path], Config]] = dict(
    {kind: partial(seg, options) for kind, options in DRAWN.items()}, det=det, tokens=tokens, pretraining=pretraining
)


# Places in a checkpoint that hold a path, a clock or the text of the config.
OF_THIS_RUN = re.compile(
    r'(\.(time|cfg|experiment_name|last_ckpt|best_ckpt|exp_name|config|eta)|[/.](data_)?time\._log_history)$'
)


def differing(first: Path, second: Path) -> list[str]:
    """Places at which the contents of two checkpoints are not equal bit for bit."""
    actual = unequal(*(torch.load(path, weights_only=False) for path in (first, second)))
    return [line for line in (line.partition(': ')[0] for line in actual) if not OF_THIS_RUN.search(line)]


pytestmark = pytest.mark.soak
# 'call': at a call or return of a function in a training step; 'save': at one in the saving of a checkpoint; 'pointer':
# when `last_checkpoint` is open and empty; 'write': the kernel ends the process that writes too much of a checkpoint;
# 'tokens': or of tokens. Two of them: the run that goes on is killed as well.
POINTS = {
    'seg 0': ('call', 'call', 'save', 'write'),
    'seg 1': ('call', 'pointer', 'call+write'),
    'seg 2': ('call', 'call+call+write'),
    'det': ('call', 'save', 'call+call'),
    'tokens': ('call', 'call', 'tokens+write'),
    'pretraining': ('call', 'write', 'call'),
}
ALL = [(kind, turn, how) for kind, hows in POINTS.items() for turn, how in enumerate(hows)]


class Killer(Hook):
    """Ends the process at the ``at``-th step or saving, and in it at the ``call``-th event or byte."""

    priority = 'VERY_HIGH'

    def __init__(self, how: str, at: int, call: int) -> None:
        self.how, self.at, self.call = how, at, call
        self.counts = dict.fromkeys(('call', 'save', 'tokens'), 0)
        for owner, name, kind in (
            (CheckpointHook, '_save_checkpoint_with_step', 'save'),
            (token_distiller, 'write_tokens', 'tokens'),
            (learning.TokenLearner, 'step', 'call'),  # the learning of tokens has no hooks
        ):
            setattr(owner, name, self.watched(getattr(owner, name), kind))

    def before_train_iter(self, *_: Any, **__: Any) -> None:
        self.begin('call')

    def watched(self, function: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            self.begin(kind)
            actual = function(*args, **options)
            if kind == 'save' and self.how in ('save', 'pointer'):
                self.end_of_moment()
            return actual

        return run

    def begin(self, kind: str) -> None:
        self.counts[kind] += 1
        if kind == 'call':
            self.end_of_moment()
        if kind != {'pointer': 'save', 'write': 'save'}.get(self.how, self.how) or self.counts[kind] != self.at:
            return
        if self.how in ('write', 'tokens'):
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.call, self.call))
        else:
            sys.setprofile(self.event)

    def event(self, frame: Any, kind: str, argument: Any) -> None:
        """Called by the interpreter at each call and return."""
        self.call -= 1
        saver = frame.f_code.co_name == '_save_checkpoint_with_step'
        opened = saver and kind == 'c_call' and argument.__name__ == 'write'
        if opened if self.how == 'pointer' else self.call <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def end_of_moment(self) -> None:
        if sys.getprofile():  # the step was shorter than that
            os.kill(os.getpid(), signal.SIGKILL)


def train(_: int, kind: str, folder: str, moment: tuple | None, files: dict[str, str]) -> None:
    """Train in a process of its own, or go on as ``--resume`` does."""
    torch.set_num_threads(1)
    toys.teacher_file = lambda kind, *_, **__: files[kind]
    pretrain.teacher_file, pretrain.pictures = (lambda: files['ssl']), (lambda: files['pictures'])
    config = KINDS[kind](Path(folder))
    config.resume = True
    runner = toys.make_runner(None, config)
    if moment:
        runner.register_hook(Killer(*moment), 'VERY_HIGH')
    runner.train()


@cache
def files() -> dict[str, str]:
    """The teachers and pictures that all runs share."""
    actual = {kind: toys.teacher_file(kind) for kind in ('fcn', 'faster_rcnn')}
    return actual | ({'ssl': pretrain.teacher_file(), 'pictures': pretrain.pictures()} if TABLE.is_file() else {})


@cache
def undisturbed(kind: str) -> Path:
    """The folder of a run that nobody disturbed."""
    folder = toys.fresh_dir()
    gloo.start(train, kind, str(folder), None, files(), processes=1)
    return folder


def checkpoints(folder: Path) -> dict[str, Path]:
    paths = [path for path in folder.glob('*.pth') if path.name.startswith(('iter_', 'epoch_', 'best_'))]
    return {str(path.relative_to(folder)): path for path in [*paths, *folder.rglob('maskd_tokens/*')]}


def smallest(found: dict[str, Path], of_tokens: bool) -> int:
    return min(path.stat().st_size for name, path in found.items() if ('tokens' in name) == of_tokens)


@pytest.mark.parametrize(('kind', 'turn', 'how'), ALL)
def test_killed_run_ends_as_an_undisturbed_one(tmp_path: Path, kind: str, turn: int, how: str) -> None:
    if kind == 'pretraining' and not TABLE.is_file():
        pytest.skip('the table of layouts is not beside this checkout')
    expected = checkpoints(undisturbed(kind))
    sizes = {part: smallest(expected, part == 'tokens') for part in how.split('+') if part in ('write', 'tokens')}
    stream = random.Random(f'{SEED}/{kind}/{turn}')
    for number, part in enumerate(how.split('+')):
        call = round(stream.uniform(0.05, 0.95) * sizes[part]) if part in sizes else stream.randint(1, 30_000)
        moment = part, stream.randint(1, 2), min(call, 3000) if part == 'save' else call
        try:
            gloo.start(train, kind, str(tmp_path), moment, files(), processes=1)
            assert number, f'it ended before its first moment, {moment}'
        except ProcessExitedException as error:
            assert error.signal_name == ('SIGXFSZ' if part in sizes else 'SIGKILL'), moment
        print(f'\nseed {SEED}, {kind} {DRAWN.get(kind, "")}: {moment}; {sorted(checkpoints(tmp_path))}')
    gloo.start(train, kind, str(tmp_path), None, files(), processes=1)
    actual = checkpoints(tmp_path)
    assert expected.keys() <= actual.keys() and all(map(zipfile.is_zipfile, actual.values()))
    for name, path in expected.items():
        assert not differing(actual[name], path), name
