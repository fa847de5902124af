"""A network's own optimizer, schedule and batch, scaled to other data; how their pictures are read."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmcv.image.geometric import rescale_size
from mmengine.config import Config, ConfigDict

from mmdistill_dense.apps.project.sides import Side
from mmdistill_dense.config.values import accumulated, chain, listed, mappings, type_name
from mmdistill_dense.utils.process import cores
from mmdistill_dense.utils.validate import size_text

MIN_STEPS = 2000
PASSES = 100  # over the data, where a config counts steps over data that are unknown
_PICTURES = {  # for training in the data sets over which configs of mmseg count steps
    'CityscapesDataset': 2975, 'ADE20KDataset': 20210, 'COCOStuffDataset': 118287, 'PascalVOCDataset': 10582,
    'PascalContextDataset': 4996, 'PascalContextDataset59': 4996,
}  # fmt: skip
_WARM_SHARE = 10  # a warm-up is at most a tenth of the training
_WARM_UPS = ('LinearLR', 'ConstantLR', 'QuadraticWarmupLR')  # where they come first, below the usual rate
_KEPT_KEYS = ('optimizer', 'clip_grad', 'paramwise_cfg', 'constructor')


@dataclass(frozen=True)
class Training:
    """How a network is trained."""

    optim_wrapper: dict[str, Any]  # with the scaled learning rate
    param_scheduler: list[dict[str, Any]]  # in steps
    hooks: list[dict[str, Any]]  # custom hooks of the config that hold for other data too
    steps: int  # their number
    source: str  # the config it comes from
    note: str  # what it has and what was changed


def scaled_training(config: Config, name: str, pictures: int, batch: int, steps: int | None = None) -> Training:
    """Return the training of a config for other data: as many passes over them, but at least ``MIN_STEPS``."""
    wrapper, loop = config.get('optim_wrapper') or ConfigDict(), config.get('train_cfg') or {}
    epochs, whole, own_batch = loop.get('max_epochs'), loop.get('max_iters'), batch_of(config, name)
    if not wrapper.get('optimizer') or not (whole or epochs):
        told = 'the config has no optim_wrapper.optimizer or no train_cfg.max_iters or max_epochs'
        raise ValueError(f'{name}: {told}, so there is no schedule to take. Choose a config that trains.')
    if steps is None:
        data = chain((config.get('train_dataloader') or {}).get('dataset') or {})
        passes = (epochs or 0) * math.prod(one.get('times', 1) for one in data)
        if whole:
            own_pictures = _PICTURES.get(type_name(data[0]))
            passes = whole * own_batch / accumulated(config) / own_pictures if own_pictures else PASSES
        steps = max(MIN_STEPS, min(math.ceil(passes * pictures / batch), whole or sys.maxsize))
    optimizer = dict(wrapper['optimizer'])
    factor = batch / own_batch if optimizer.get('type') == 'SGD' else math.sqrt(batch / own_batch)
    given = optimizer.get('lr')
    if given is not None:
        optimizer['lr'] = rounded(given * factor)
    length = f'{epochs} epochs' if epochs else f'{whole} steps'
    rounds = f'{steps * batch / pictures:.0f}'
    own = f'{optimizer.get("type")} at lr {given} for {own_batch} pictures a step and {length}'
    here = f'{batch} pictures and {steps} steps ({rounds} pass{"" if rounds == "1" else "es"})'
    kept = {key: value for key, value in wrapper.to_dict().items() if key in _KEPT_KEYS and value is not None}
    return Training(
        {'type': 'OptimWrapper', **kept, 'optimizer': optimizer},
        _schedulers(config, whole, epochs or 0, steps, factor),
        [dict(hook) for hook in config.get('custom_hooks') or [] if hook.get('type') == 'EMAHook'],
        steps,
        name if '::' in name else Path(name).name,
        f'{own}; here lr {optimizer.get("lr")} for {here}',
    )


def rounded(value: float) -> float:
    return float(f'{value:.3g}')


def batch_of(config: Config, name: str) -> int:
    """Return the pictures of a step of a config: of all GPUs that its name or `auto_scale_lr` tells."""
    told = re.search(r'(\d+)xb(\d+)', Path(name).name)
    base = (config.get('auto_scale_lr') or {}).get('base_batch_size')
    if base and not told:
        return int(base)
    one = int(told[1]) * int(told[2]) if told else (config.get('train_dataloader') or {}).get('batch_size') or 16
    return int(one * accumulated(config))


def _schedulers(config: Config, whole: int | None, epochs: int, steps: int, factor: float) -> list[dict[str, Any]]:
    """Return the schedulers of ``whole`` steps or ``epochs`` in ``steps``: a warm-up stays as long, if it may."""
    each = [dict(one) for one in listed(config.get('param_scheduler'))]
    counted = [one.pop('by_epoch', True) and not whole for one in each]
    warm = 0
    for one, by_epoch in zip(each, counted, strict=True):
        starts = one.get('factor', one.get('start_factor', 1 / 3))  # 1/3 is mmengine's default for both
        if str(one.get('type')).endswith(_WARM_UPS) and not one.get('begin') and starts < one.get('end_factor', 1.0):
            warm = max(warm, 0 if by_epoch else one.get('end') or 0)
    short = min(warm, steps // _WARM_SHARE)

    def moved(value: float, by_epoch: bool) -> int:
        if by_epoch:
            return round(value * steps / epochs)
        if value <= warm:
            return round(value * short / warm) if warm else 0
        share = (value - warm) / max(1, (whole or steps) - warm)
        return short + round(min(1.0, share) * (steps - short))

    for one, by_epoch in zip(each, counted, strict=True):
        one.pop('convert_to_iter_based', None)
        if one.get('T_max') is not None:
            begin = one.get('begin', 0)
            one['T_max'] = max(1, moved(begin + one['T_max'], by_epoch) - moved(begin, by_epoch))
        one.update({key: moved(one[key], by_epoch) for key in ('begin', 'end') if one.get(key) is not None})
        if 'milestones' in one:
            one['milestones'] = [moved(value, by_epoch) for value in one['milestones']]
        if one.get('eta_min'):
            one['eta_min'] = rounded(one['eta_min'] * factor)
        one['by_epoch'] = False
    return [one for one in each if one.get('begin', 0) < one.get('end', math.inf)]


# How pictures are read


CPU_BATCH, GPU_BATCH = 4, 8
COCO_SCALE = (1333, 800)
_STEP = 32  # the crop is a multiple of it, as the strides of networks are


@dataclass(frozen=True)
class Loading:
    """How the data are read. Sizes are height and width."""

    size: tuple[int, int]  # into which a picture is brought
    tested: tuple[int, int]  # that a usual picture then has
    crop: tuple[int, int]  # of the training; for segmentation
    resize: bool  # whether segmentors are tested at ``size``, or at the pictures' own
    keep_ratio: bool  # whether a picture keeps its shape; for detection
    batch: int  # pictures of a step
    workers: int  # processes that read pictures
    note: str  # what was decided and why


def decide_loading(
    student: Side, usual: tuple[int, int], pictures: int, batch: int | None, size: tuple[int, int] | None
) -> Loading:
    """Return how ``pictures`` of a ``usual`` size are read: as by the student's config, if the machine takes that."""
    gpu = torch.cuda.is_available()
    own = batch_of(student.config, student.name)
    chosen = batch or max(2, min(own, GPU_BATCH if gpu else CPU_BATCH, pictures))
    workers = min(4, cores()) if gpu else min(2, cores() // 2)  # without a GPU, the training needs the cores
    machine = f'{chosen} pictures a step (the config has {own}), {workers} loader worker(s)'
    scale, keep_ratio = COCO_SCALE, True
    # at which a detector is tested: the training may resize to several sizes, or to a larger one that it then crops
    loaders = (student.config.get(f'{name}_dataloader') or {} for name in ('test', 'train'))
    for step in mappings([one.get('dataset') for one in loaders]) if student.task == 'det' else ():
        if str(step.get('type')).endswith('Resize') and isinstance(step.get('scale'), (tuple, list)):
            first = step['scale'][0] if isinstance(step['scale'][0], (tuple, list)) else step['scale']
            scale, keep_ratio = (int(first[0]), int(first[1])), bool(step.get('keep_ratio', False))
            break
    if student.task == 'seg':
        read = size or usual
        own_crop = (student.model.get('data_preprocessor') or {}).get('size') or (512, 512)
        most = [side if size else max(_STEP, side // _STEP * _STEP) for side in read]
        crop = min(own_crop[0], most[0]), min(own_crop[1], most[1])
    else:
        fits = max(usual) <= max(scale) and min(usual) <= min(scale) and keep_ratio
        lying = (min(scale), max(scale)) if usual[0] <= usual[1] else (max(scale), min(scale))
        crop = read = size or (usual if fits else lying)
    resize = size is not None or student.task == 'det'
    width, height = rescale_size(usual[::-1], read[::-1]) if keep_ratio else read[::-1]
    tested = (height, width) if resize else usual
    if student.task == 'seg':
        how = '' if size else 'their own size, '
        note = f'crops of {size_text(crop)}, tested at {how}{size_text(tested)}'
    else:
        why = 'as they are' if tested == usual else f'in place of {size_text(usual)}'
        note = f'pictures of {size_text(tested)}, {why} (the config has {max(scale)}x{min(scale)}; --size H W sets it)'
    return Loading(read, tested, crop, resize, keep_ratio, chosen, workers, f'{note}; {machine}')
