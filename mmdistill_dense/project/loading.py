"""Decide the sizes of pictures, the pictures of a step and the reading processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmcv.image.geometric import rescale_size

from mmdistill_dense.project.open_pictures import size_text
from mmdistill_dense.project.sides import Side
from mmdistill_dense.project.zoo_schedule import batch_of

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
    student: Side,
    usual: tuple[int, int],
    pictures: int,
    batch: int | None,
    size: tuple[int, int] | None,
) -> Loading:
    """Return how the data are read: as by the student's config, no larger than the pictures or the machine.

    ``usual`` is the size of the user's pictures, ``size`` the one of ``--size``, ``pictures`` their number in training.
    """
    import torch

    gpu = torch.cuda.is_available()
    own = batch_of(student.config, student.name)
    chosen = batch or max(2, min(own, GPU_BATCH if gpu else CPU_BATCH, pictures))
    cores = os.cpu_count() or 1
    workers = min(4, cores) if gpu else min(2, cores // 2)  # without a GPU, the training needs the cores
    machine = f'{chosen} pictures a step (the config has {own}), {workers} reading process(es)'
    if student.task == 'seg':
        height, width = size or usual
        crop = _crop(student.model, (height, width), exact=size is not None)
        tested = _brought(usual, size, True) if size else usual
        how = '' if size else 'their own size, '
        note = f'crops of {size_text(crop)}, tested at {how}{size_text(tested)}; {machine}'
        return Loading((height, width), tested, crop, size is not None, True, chosen, workers, note)
    scale, keep_ratio = _scale(student)
    if size is None:
        fits = max(usual) <= max(scale) and min(usual) <= min(scale) and keep_ratio
        size = usual if fits else (min(scale), max(scale)) if usual[0] <= usual[1] else (max(scale), min(scale))
    tested = _brought(usual, size, keep_ratio)
    why = 'as they are' if tested == usual else f'in place of {size_text(usual)}'
    note = (
        f'pictures of {size_text(tested)}, {why} (the config has {max(scale)}x{min(scale)}; --size H W sets it); '
        f'{machine}'
    )
    return Loading(size, tested, size, True, keep_ratio, chosen, workers, note)


def _brought(picture: tuple[int, int], size: tuple[int, int], keep_ratio: bool) -> tuple[int, int]:
    """Return the height and width that a picture has after ``Resize``."""
    if not keep_ratio:
        return size
    width, height = rescale_size(picture[::-1], size[::-1])
    return height, width


def check_tested(side: Side) -> None:
    """Refuse CornerNet, CenterNet and CentripetalNet, which read the border that a step of their own tests adds."""
    for step in _steps((side.config.get('test_dataloader') or {}).get('dataset')):
        if str(step.get('type')).endswith('RandomCenterCropPad'):
            raise ValueError(
                f'{side.key} {side.name}: its predictions need the step RandomCenterCropPad of its own test pipeline, '
                'which `new` does not write. Choose another detector, or write the pair by hand: docs/own_pair.md.'
            )


def _crop(model: Mapping[str, Any], size: tuple[int, int], exact: bool) -> tuple[int, int]:
    own = (model.get('data_preprocessor') or {}).get('size') or (512, 512)
    height, width = (
        min(one, side if exact else max(_STEP, side // _STEP * _STEP)) for one, side in zip(own, size, strict=True)
    )
    return height, width


def _scale(student: Side) -> tuple[tuple[int, int], bool]:
    """Return the size at which a detector's own config tests, and whether pictures keep their shape.

    The training may resize to several sizes, or to a larger one that it then crops (RTMDet: 1280, cropped to 640).
    """
    loaders = (student.config.get(f'{name}_dataloader') or {} for name in ('test', 'train'))
    for step in _steps([loader.get('dataset') for loader in loaders]):
        if str(step.get('type')).endswith('Resize') and isinstance(step.get('scale'), (tuple, list)):
            first = step['scale'][0] if isinstance(step['scale'][0], (tuple, list)) else step['scale']
            return (int(first[0]), int(first[1])), bool(step.get('keep_ratio', False))
    return COCO_SCALE, True


def _steps(option: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(option, Mapping):
        if 'type' in option:
            yield option
        for value in option.values():
            yield from _steps(value)
    elif isinstance(option, (list, tuple)):
        for member in option:
            yield from _steps(member)
