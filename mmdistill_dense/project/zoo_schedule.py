"""Optimizer and schedule of a network's own config, with length and learning rate scaled to other data."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdistill_dense.config.data_sets import chain

MIN_STEPS = 2000
PASSES = 100  # over the data, where the config's own data are unknown
# training pictures of the zoo's data sets
_PICTURES = {
    'CityscapesDataset': 2975,
    'ADE20KDataset': 20210,
    'COCOStuffDataset': 118287,
    'PascalVOCDataset': 10582,
    'PascalContextDataset': 4996,
    'PascalContextDataset59': 4996,
    'CocoDataset': 117266,
    'CocoPanopticDataset': 118287,
    'LVISV1Dataset': 100170,
}
_WARM_SHARE = 10  # a warm-up is at most a tenth of the training
_WARM_UPS = ('LinearLR', 'ConstantLR', 'QuadraticWarmupLR')  # where they come first, below the usual rate
_TIMES = ('begin', 'end')
_KEPT_HOOKS = ('EMAHook',)
_KEPT_KEYS = ('optimizer', 'clip_grad', 'paramwise_cfg', 'constructor')


@dataclass(frozen=True)
class Schedule:
    """How a network is trained.

    Attributes:
        optim_wrapper: With the scaled learning rate.
        param_scheduler: In steps.
        hooks: Custom hooks of the config that hold for other data too.
        steps: Their number.
        source: The config it comes from.
        note: What it has and what was changed.
    """

    optim_wrapper: dict[str, Any]
    param_scheduler: list[dict[str, Any]]
    hooks: list[dict[str, Any]]
    steps: int
    source: str
    note: str


def scaled_schedule(config: Config, name: str, pictures: int, batch: int, steps: int | None = None) -> Schedule:
    """Return the schedule of a config for other data.

    The number of passes over the data stays, but the training has at least ``MIN_STEPS`` steps and at most those of the
    config. The learning rate of SGD is scaled with the batch, that of other optimizers with its square root.
    """
    wrapper, loop = config.get('optim_wrapper') or {}, config.get('train_cfg') or {}
    if not wrapper.get('optimizer') or not (loop.get('max_iters') or loop.get('max_epochs')):
        raise ValueError(
            f'{name}: the config has no optim_wrapper.optimizer or no train_cfg.max_iters or max_epochs, so there is '
            'no schedule to take. Choose a config that trains.'
        )
    own_batch = batch_of(config, name)
    own_pictures, repeats = _pictures_of(config)
    epoch = math.ceil((own_pictures or _PICTURES['CocoDataset']) * repeats / own_batch)
    whole = loop.get('max_iters') or loop['max_epochs'] * epoch
    passes = whole * own_batch / own_pictures if own_pictures else repeats * loop.get('max_epochs', PASSES)
    if steps is None:
        steps = min(max(MIN_STEPS, math.ceil(passes * pictures / batch)), max(whole, MIN_STEPS))
    optimizer = dict(wrapper['optimizer'])
    ratio = batch / own_batch
    factor = ratio if optimizer.get('type') == 'SGD' else math.sqrt(ratio)
    given = optimizer.get('lr')
    if given is not None:
        optimizer['lr'] = rounded(given * factor)
    length = f'{loop["max_epochs"]} epochs' if loop.get('max_epochs') else f'{whole} steps'
    rounds = f'{steps * batch / pictures:.0f}'
    note = (
        f'{optimizer.get("type")} at lr {given} for {own_batch} pictures a step and {length}; here lr '
        f'{optimizer.get("lr")} for {batch} pictures and {steps} steps ({rounds} pass{"" if rounds == "1" else "es"})'
    )
    plain = wrapper.to_dict() if hasattr(wrapper, 'to_dict') else dict(wrapper)
    kept = {key: plain[key] for key in _KEPT_KEYS if plain.get(key) is not None}
    return Schedule(
        {'type': 'OptimWrapper', **kept, 'optimizer': optimizer},
        _schedulers(config, whole, epoch, steps, factor),
        [dict(hook) for hook in config.get('custom_hooks') or [] if hook.get('type') in _KEPT_HOOKS],
        steps,
        name if '::' in name else Path(name).name,
        note,
    )


def rounded(value: float) -> float:
    """Return a number of three significant digits."""
    return float(f'{value:.3g}')


def batch_of(config: Config, name: str) -> int:
    """Return the pictures of a step of a config: of all GPUs that its name or `auto_scale_lr` tells."""
    told = re.search(r'(\d+)xb(\d+)', Path(name).name)
    if told:
        return int(told[1]) * int(told[2])
    base = (config.get('auto_scale_lr') or {}).get('base_batch_size')
    return int(base or (config.get('train_dataloader') or {}).get('batch_size') or 16)


def _pictures_of(config: Config) -> tuple[int | None, int]:
    """Return the pictures of a config's data, if they are known, and how often an epoch repeats them."""
    found = chain((config.get('train_dataloader') or {}).get('dataset') or {})
    repeats = math.prod(one.get('times', 1) for one in found)
    return _PICTURES.get(str(found[0].get('type')).rsplit('.', 1)[-1]), repeats


def _schedulers(config: Config, whole: int, epoch: int, steps: int, factor: float) -> list[dict[str, Any]]:
    given = config.get('param_scheduler') or []
    each = [dict(one) for one in ([given] if isinstance(given, Mapping) else given)]
    for one in each:
        unit = epoch if one.pop('by_epoch', True) else 1
        one.pop('convert_to_iter_based', None)
        for key in (*_TIMES, 'T_max'):
            if one.get(key) is not None:
                one[key] *= unit
        if 'milestones' in one:
            one['milestones'] = [unit * value for value in one['milestones']]
    moved = _moved(each, whole, steps)
    for one in each:
        if 'T_max' in one:
            begin = one.get('begin', 0)
            one['T_max'] = max(1, moved(begin + one['T_max']) - moved(begin))
        for key in _TIMES:
            if one.get(key) is not None:
                one[key] = moved(one[key])
        if 'milestones' in one:
            one['milestones'] = [moved(value) for value in one['milestones']]
        if one.get('eta_min'):
            one['eta_min'] = rounded(one['eta_min'] * factor)
        one['by_epoch'] = False
    return [one for one in each if one.get('begin', 0) < one.get('end', math.inf)]


def _warms(one: Mapping[str, Any]) -> bool:
    """Tell whether a scheduler is a warm-up: it is the first, and the rate is the usual one only at its end."""
    if one.get('begin') or not str(one.get('type')).endswith(_WARM_UPS):
        return False
    starts = one.get('factor', one.get('start_factor', 1 / 3))  # 1/3 is mmengine's default for both
    return starts < one.get('end_factor', 1.0)


def _moved(each: list[dict[str, Any]], whole: int, steps: int) -> Callable[[float], int]:
    """Return the function from a step of the config to one here: the warm-up stays as long, if it may."""
    warm = max((one.get('end') or 0 for one in each if _warms(one)), default=0)
    short = min(warm, steps // _WARM_SHARE)

    def moved(value: float) -> int:
        if value <= warm:
            return round(value * short / warm) if warm else 0
        share = (value - warm) / max(1, whole - warm)  # below 1, but where the length in epochs is a guess
        return short + round(min(1.0, share) * (steps - short))

    return moved
