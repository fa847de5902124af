"""Small settings and runs for the tests of tokens."""

from pathlib import Path
from typing import Any

import torch
from mmengine.runner import Runner
from torch import Tensor

from tests import toys

LEARN = dict(max_iters=6, save_interval=2, log_interval=3)
LOGITS = dict(
    type='MasKD', student_tap='decode_head.conv_seg', num_tokens=3, weight_mask=False, align='none', learn=LEARN
)
NECK = dict(type='MasKD', num_tokens=3, learn=LEARN)


def seg_model(distiller: dict = LOGITS, **options: Any) -> dict:
    options.setdefault('teacher', toys.seg_teacher('fcn'))
    return toys.model_config(toys.seg_net('fcn', dropout=0.1), distillers=dict(maskd=distiller), **options)


def det_model(distiller: dict = NECK, student: str = 'retinanet', teacher: str = 'retinanet') -> dict:
    return toys.model_config(toys.det_net(student), toys.det_teacher(teacher), dict(maskd=distiller))


def random_tokens(distiller: Any) -> dict[str, Tensor]:
    """Values of the distiller's shapes, of a size that makes its masks differ."""
    generator = torch.Generator().manual_seed(0)
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in distiller.token_shapes().items()}


def tokens_of(runner: Runner) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in runner.model.distillers['maskd'].mask_modules.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return not toys.differing(first, second)


def token_files(work_dir: Path) -> list[str]:
    """Names in the folder of tokens."""
    return sorted(path.name for path in (work_dir / 'maskd_tokens').iterdir())
