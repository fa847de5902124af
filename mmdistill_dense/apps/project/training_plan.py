"""How student and teacher are trained, both alike: pictures, batch, optimizer, rate, length; and what that takes."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmcv.image.geometric import rescale_size
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from mmdistill_dense.apps.check.context import Options
from mmdistill_dense.apps.check.run import check_config
from mmdistill_dense.apps.inspect.inference import predict_items
from mmdistill_dense.apps.project import SUITE
from mmdistill_dense.apps.project.network_options import UserNetwork
from mmdistill_dense.apps.suite import configs, plan
from mmdistill_dense.apps.suite.definition import load_suite
from mmdistill_dense.apps.suite.pool import clock
from mmdistill_dense.config.values import mappings, optimizer_of
from mmdistill_dense.guards.findings import ERROR
from mmdistill_dense.networks.building import building_once
from mmdistill_dense.registry import DATASETS
from mmdistill_dense.utils.literals import Source
from mmdistill_dense.utils.process import cores, device_of, quiet
from mmdistill_dense.utils.validate import size_text

CPU_BATCH, GPU_BATCH = 4, 8
COCO_SCALE = (1333, 800)
_STEP = 32  # the crop is a multiple of it, as the strides of networks are


@dataclass(frozen=True)
class Loading:
    """How the data are read. Sizes are height and width."""

    size: tuple[int, int]  # into which a picture is brought
    tested: tuple[int, int]  # that a usual picture then has
    crop: tuple[int, int]  # of the training
    resize: bool  # whether segmentors are tested at ``size``, or at the pictures' own
    keep_ratio: bool  # whether a picture keeps its shape; for detection
    batch: int  # pictures of a step
    workers: int  # processes that read pictures
    note: str  # what was decided and why


def decide_loading(
    student: UserNetwork, usual: tuple[int, int], pictures: int, batch: int | None, size: tuple[int, int] | None
) -> Loading:
    """Return how ``pictures`` of a ``usual`` size are read: as by the student's config, if the machine takes that."""
    gpu, is_seg = torch.cuda.is_available(), student.task == 'seg'
    chosen = batch or max(2, min(GPU_BATCH if gpu else CPU_BATCH, pictures))
    workers = min(4, cores()) if gpu else min(2, cores() // 2)  # without a GPU, the training needs the cores
    scale, keep_ratio = COCO_SCALE, True
    # at which it is tested: the training may resize to several sizes, or to a larger one that it then crops
    loaders = (student.config.get(f'{name}_dataloader') or {} for name in ('test', 'train'))
    for step in () if is_seg else mappings([loader.get('dataset') for loader in loaders]):
        if str(step.get('type')).endswith('Resize') and isinstance(step.get('scale'), (tuple, list)):
            first_scale = step['scale'][0] if isinstance(step['scale'][0], (tuple, list)) else step['scale']
            scale, keep_ratio = (int(first_scale[0]), int(first_scale[1])), bool(step.get('keep_ratio', False))
            break
    fits = is_seg or (max(usual) <= max(scale) and min(usual) <= min(scale) and keep_ratio)
    lying = (min(scale), max(scale)) if usual[0] <= usual[1] else (max(scale), min(scale))
    crop = read = size or (usual if fits else lying)
    width, height = rescale_size(usual[::-1], read[::-1]) if keep_ratio else read[::-1]
    if is_seg:
        config_crop = (student.model.get('data_preprocessor') or {}).get('size') or (512, 512)
        most = size or [max(_STEP, side // _STEP * _STEP) for side in usual]
        crop = min(config_crop[0], most[0]), min(config_crop[1], most[1])
        note = f'crops of {size_text(crop)}, tested at {"" if size else "their own size, "}{height}x{width}'
    else:
        form = 'as they are' if (height, width) == usual else f'in place of {size_text(usual)}'
        note = f'pictures of {height}x{width}, {form} (the config has {max(scale)}x{min(scale)}; --size H W sets it)'
    note += f'; {chosen} pictures a step, {workers} loader worker(s)'
    return Loading(read, (height, width), crop, not (is_seg and size is None), keep_ratio, chosen, workers, note)


LEAST_STEPS, MOST_STEPS = 2000, 80_000
PASSES = 100  # over the data, within these limits
VARIED_PASSES = 50  # from which on a detector gains by scaled, cropped and coloured pictures; a short training loses
# docs/results.md has the rates and optimizers that were tried, and how far each was from the best
RANDOM_RATE, PRETRAINED_RATE = 0.004, 0.002
_WARM_SHARE = 20  # the rate rises for a twentieth of the training
# Under half precision CUDA refuses the binary cross entropy of probabilities, which the losses of these compute.
_FULL_PRECISION = ('FreeAnchorRetinaHead', 'AutoAssignHead', 'YOLACTHead', 'TOODHead')
_HALF = Source("'AmpOptimWrapper' if __import__('torch').cuda.is_available() else 'OptimWrapper'")
_PLAIN = {'norm_decay_mult': 0.0, 'bias_decay_mult': 0.0, 'bypass_duplicate': True}


@dataclass(frozen=True)
class Training:
    """How a network is trained."""

    optim_wrapper: dict[str, Any]
    param_scheduler: list[dict[str, Any]]  # in steps
    steps: int  # their number
    start: str | None  # weights of the whole network, in the place of those of its config
    note: str  # what was decided


def length(pictures: int, batch: int) -> int:
    """Return the steps of a training over so many ``pictures``: ``PASSES`` over them, within the limits."""
    return min(MOST_STEPS, max(LEAST_STEPS, math.ceil(PASSES * pictures / batch)))


def schedule(steps: int) -> list[dict[str, Any]]:
    """Return the schedulers of so many steps: a warm-up where it has two steps or more, and a cosine to 0."""
    warm = steps // _WARM_SHARE if steps >= 2 * _WARM_SHARE else 0  # a warm-up of a single step would never rise
    cosine = {'type': 'CosineAnnealingLR', 'T_max': steps - warm, 'eta_min': 0, 'begin': warm, 'end': steps}
    rising = {'type': 'LinearLR', 'start_factor': 0.01, 'begin': 0, 'end': warm}
    return [{**option, 'by_epoch': False} for option in ([rising] if warm else []) + [cosine]]


def plan_training(side: UserNetwork, pictures: int, batch: int, steps: int) -> Training:
    """Return the training of a network: AdamW, a warm-up, a cosine to 0, half precision where there is a GPU."""
    rate, reason, parts = _rate(side)
    full = any(option.get('type') in _FULL_PRECISION for option in mappings(side.model))
    rounds = f'{steps * batch / pictures:.0f}'
    note = f'AdamW at lr {rate} ({reason}), cosine to 0, {steps} steps of {batch} pictures '
    note += f'({rounds} pass{"" if rounds == "1" else "es"} over the data), half precision on a GPU'
    note += ' is left out: its losses refuse that' if full else ''
    wrapper = {
        'type': 'OptimWrapper' if full else _HALF,
        'optimizer': {'type': 'AdamW', 'lr': rate, 'weight_decay': 0.05},
        'clip_grad': {'max_norm': 10.0, 'norm_type': 2},
        **parts,
    }
    return Training(wrapper, schedule(steps), steps, side.start, note)


def _rate(side: UserNetwork) -> tuple[float, str, dict[str, Any]]:
    """Return the rate of a network, why, and which of its parts learn more slowly.

    A config with Adam has the rate of its pre-trained weights, mostly those of a transformer, and factors of its parts.
    They do not hold for random weights, nor those of SGD for Adam; and a rate may be for a batch of hundreds (RTMDet).
    """
    wrapper: Mapping[str, Any] = side.config.get('optim_wrapper') or {}
    optimizer, plain = optimizer_of(side.config), {'paramwise_cfg': _PLAIN}
    if side.random:
        return RANDOM_RATE, 'from random weights', plain
    if not str(optimizer.get('type')).startswith('Adam') or optimizer.get('lr', math.inf) > PRETRAINED_RATE:
        return PRETRAINED_RATE, 'from pre-trained weights', plain
    constructor = {'constructor': wrapper['constructor']} if wrapper.get('constructor') else {}
    paramwise = {**_PLAIN, **(wrapper.get('paramwise_cfg') or {})}
    return optimizer['lr'], 'as its config', {'paramwise_cfg': paramwise, **constructor}


# What the trainings of a project take on this machine, from some timed steps

NIGHT = 12 * 3600.0  # seconds
_BATCH = 2  # pictures of a timed step: a whole batch may take minutes on a CPU
_TURNS = 3  # of a step, of which the last is timed
_LONG = 5.0  # seconds of a step whose first turn is enough
_TRIAL = 100  # steps of a training that is a trial, whose price nobody asks


class Price(NamedTuple):
    """Seconds of one training: all steps, and all validations with the test."""

    steps: float
    evaluations: float


def price_lines(folder: Path) -> Iterator[str]:
    """Yield what all trainings of a project take here, and the length that fits a night if that is less."""
    with quiet():
        definition = load_suite(folder / SUITE)
        steps = configs.control_config(definition).train_cfg.max_iters
        if steps < _TRIAL:
            return
        trained = plan.trains_teacher(definition)
        runs = [run for run in plan.runs(definition) if trained or not run.is_teacher]
    prices = dict[str, Price]()
    try:
        with quiet(), building_once():
            for run in runs:
                if run.name not in prices:
                    prices[run.name] = time_training(plan.config_of(definition, run))
    except Exception as error:  # whatever a network raises: `run` checks each row, and says what to do
        yield f'price    not known: {run.name} cannot be timed here: {error}'
        return
    total = sum(sum(prices[run.name]) for run in runs)
    parts = ', '.join(f'{name} {clock(sum(price))}' for name, price in prices.items())
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f'a CPU, {torch.get_num_threads()} threads'
    yield f'price    about {clock(total)} here ({device}), for {steps} steps each: {parts}'
    if total > NIGHT:
        evaluations = sum(prices[run.name].evaluations for run in runs)
        shorter = int(steps * (NIGHT - evaluations) / (total - evaluations)) // 100 * 100
        if shorter > 0:
            yield f'         more than a night: --iters {shorter} takes about {clock(NIGHT)}, and may train too little'


def time_training(config: Config) -> Price:
    """Time some steps of a config's training, and its validation, with random weights."""
    batch = config.train_dataloader.batch_size
    timed = min(_BATCH, batch)
    report = check_config(config, Options(weights=False, device=device_of(None), batch=timed, val=0, command=False))
    if report.stopped:
        raise RuntimeError(next(finding.message for finding in report.findings if finding.level == ERROR))
    context, loader = report.context, config.train_dataloader
    config.optim_wrapper.optimizer.lr = 0.0
    optimizer = build_optim_wrapper(context.model, config.optim_wrapper)
    step = _seconds(lambda: context.model.train_step(copy.deepcopy(context.batch), optimizer)) * batch / timed
    train, val = (DATASETS.build(config[f'{part}_dataloader'].dataset) for part in ('train', 'val'))
    loading = _seconds(lambda: train[0]) * batch / max(1, loader.num_workers)
    step = max(step, loading) if loader.num_workers else step + loading
    evaluated = 2 + config.train_cfg.max_iters // config.train_cfg.get('val_interval', config.train_cfg.max_iters)
    context.model.eval()
    predicting = 0.0 if context.tested is None else _seconds(partial(predict_items, context.model, [context.tested]))
    return Price(step * config.train_cfg.max_iters, evaluated * len(val) * predicting)


def _seconds(work: Callable[[], Any]) -> float:
    """Return the wall time of some work, in its last turn unless an earlier one was long."""
    for _ in range(_TURNS):
        begin = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if (seconds := time.perf_counter() - begin) > _LONG:
            break
    return seconds
