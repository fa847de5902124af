"""How pictures are read: their size, the crop of a training, the pictures of a step, the reading processes."""

from dataclasses import dataclass

import torch
from mmcv.image.geometric import rescale_size

from mmdistill_dense.apps.project.network_options import UserNetwork
from mmdistill_dense.config.values import mappings
from mmdistill_dense.utils.process import cores
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
    gpu = torch.cuda.is_available()
    chosen = batch or max(2, min(GPU_BATCH if gpu else CPU_BATCH, pictures))
    workers = min(4, cores()) if gpu else min(2, cores() // 2)  # without a GPU, the training needs the cores
    machine = f'{chosen} pictures a step, {workers} loader worker(s)'
    scale, keep_ratio = COCO_SCALE, True
    # at which a detector is tested: the training may resize to several sizes, or to a larger one that it then crops
    loaders = (student.config.get(f'{name}_dataloader') or {} for name in ('test', 'train'))
    for step in mappings([loader.get('dataset') for loader in loaders]) if student.task == 'det' else ():
        if str(step.get('type')).endswith('Resize') and isinstance(step.get('scale'), (tuple, list)):
            first_scale = step['scale'][0] if isinstance(step['scale'][0], (tuple, list)) else step['scale']
            scale, keep_ratio = (int(first_scale[0]), int(first_scale[1])), bool(step.get('keep_ratio', False))
            break
    if student.task == 'seg':
        read = size or usual
        config_crop = (student.model.get('data_preprocessor') or {}).get('size') or (512, 512)
        most = [side if size else max(_STEP, side // _STEP * _STEP) for side in read]
        crop = min(config_crop[0], most[0]), min(config_crop[1], most[1])
    else:
        fits = max(usual) <= max(scale) and min(usual) <= min(scale) and keep_ratio
        lying = (min(scale), max(scale)) if usual[0] <= usual[1] else (max(scale), min(scale))
        crop = read = size or (usual if fits else lying)
    resize = size is not None or student.task == 'det'
    width, height = rescale_size(usual[::-1], read[::-1]) if keep_ratio else read[::-1]
    tested = (height, width) if resize else usual
    if student.task == 'seg':
        size_note = '' if size else 'their own size, '
        note = f'crops of {size_text(crop)}, tested at {size_note}{size_text(tested)}'
    else:
        form = 'as they are' if tested == usual else f'in place of {size_text(usual)}'
        note = f'pictures of {size_text(tested)}, {form} (the config has {max(scale)}x{min(scale)}; --size H W sets it)'
    return Loading(read, tested, crop, resize, keep_ratio, chosen, workers, f'{note}; {machine}')
