"""What `tools/benchmark.py losses` compares for PCD: the loss of all pixels against the queue."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense import losses
from tools.benchmark import reference
from tools.benchmark.loss_cases import Case


@dataclass(frozen=True)
class Size:
    """Pixels of all images and views, channels, and rows of the queue."""

    pixels: int
    channels: int
    queue: int
    repeats: int


SIZES = {
    'imagenet': Size(2 * 32 * 49, 256, 65536, repeats=2),
    'cityscapes': Size(4 * 1024, 2048, 1024, repeats=7),
    'small': Size(784, 256, 16384, repeats=5),
}
DEFAULT_SIZE = 'imagenet'
TEMPERATURE = 0.2


def describe(size_name: str) -> str:
    """Return what a size is, in words."""
    size = SIZES[size_name]
    return f'{size.pixels} pixels, {size.channels} channels of unit length, {size.queue} negatives'


def cases(size_name: str) -> list[Case]:
    """Return the case for a size in SIZES."""
    return cases_of(SIZES[size_name])


def cases_of(size: Size) -> list[Case]:
    """Return the cases for a size."""
    draw = torch.Generator().manual_seed(0)
    student, teacher, negatives = (
        F.normalize(torch.randn(rows, size.channels, generator=draw), dim=1)
        for rows in (size.pixels, size.pixels, size.queue)
    )
    return [Case('pixels against the queue', [student], [teacher, negatives], _loss, _released, size.repeats)]


def _loss(student: Tensor, teacher: Tensor, negatives: Tensor) -> Tensor:
    return losses.pixel_info_nce(student, teacher, negatives, TEMPERATURE)[0]


def _released(student: Tensor, teacher: Tensor, negatives: Tensor) -> Tensor:
    return reference.pcd_info_nce(student, teacher, negatives, TEMPERATURE)
