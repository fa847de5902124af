"""The runs that are killed, each of them small, with dropout, random masks, queues and averages in play."""

import os
import random
import re
from collections.abc import Callable, Mapping, Sized
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import WeightedRandomSampler

from tests import toys
from tests.distillers.maskd.tokens import LEARN, LOGITS
from tests.pretrain import runs as pretrain
from tests.weights.test_safe_load import unequal

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


DRAWN = {f'seg {number}': way for number, way in enumerate(draw_ways())}
KINDS: dict[str, Callable[[Path], Config]] = dict(
    {kind: partial(seg, way) for kind, way in DRAWN.items()}, det=det, tokens=tokens, pretraining=pretraining
)


# Places in a checkpoint that hold a path, a clock or the text of the config.
OF_THIS_RUN = re.compile(
    r'(\.(time|cfg|experiment_name|last_ckpt|best_ckpt|exp_name|config|eta)|[/.](data_)?time\._log_history)$'
)


def differing(first: Path, second: Path) -> list[str]:
    """Places at which the contents of two checkpoints are not equal bit for bit."""
    found = unequal(*(torch.load(path, weights_only=False) for path in (first, second)))
    return [place for place in (one.partition(': ')[0] for one in found) if not OF_THIS_RUN.search(place)]
