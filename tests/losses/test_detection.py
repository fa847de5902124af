"""Losses of detection: focal and global (FGD), localisation (LD); and what a loss refuses."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from mmdistill_dense import losses
from mmdistill_dense.losses import valuable_region
from tests.distillers.steps import draw


def test_a_large_shift_and_a_map_of_foreground_alone() -> None:
    """The formulas of FGD and DeFeat are asked in tests/distillers/test_boxes.py."""
    far = torch.full((1, 1, 10, 10), 4096.0)
    assert losses.shifted_error(far, 0 * far, -far[..., 0, 0]).item() == 0, 'does not cancel'
    student, teacher = (draw(2, 1, 4, 5, seed=seed) for seed in range(2))
    apart = losses.decoupled_squares(student, teacher, torch.ones(2, 4, 5))
    torch.testing.assert_close(apart, torch.stack([(student - teacher).square().mean() / 2, student.sum() * 0]))


SIZES = [64, 16, 4]


def _anchors() -> torch.Tensor:
    """Square anchors of 4 strides' side on grids of 8, 4 and 2 cells a side over a picture of 64."""
    levels = []
    for side, stride in ((8, 8), (4, 16), (2, 32)):
        y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing='ij')
        centres = torch.stack([x, y], -1).reshape(-1, 2).double() * stride
        levels.append(torch.cat([centres - 2 * stride, centres + 2 * stride], 1))
    return torch.cat(levels)


BOXES = torch.tensor([[3.0, 5.0, 41.0, 33.0], [10.0, 30.0, 60.0, 63.0], [50.0, 2.0, 58.0, 9.0]], dtype=torch.float64)


def _iou(a: list[float], b: list[float]) -> tuple[float, float, float]:
    """IoU, overlap over the first area less the relative squared distance, and distance of the centres of two boxes."""
    width, height = (max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]), 0) for i in (0, 1))
    area_a, area_b = ((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b))
    iou = width * height / (area_a + area_b - width * height)
    distance = math.dist(*(((x[0] + x[2]) / 2, (x[1] + x[3]) / 2) for x in (a, b)))
    diagonal = math.dist((min(a[0], b[0]), min(a[1], b[1])), (max(a[2], b[2]), max(a[3], b[3])))
    return iou, width * height / area_a - distance**2 / diagonal**2, distance


@pytest.mark.parametrize(('topk', 'ratio'), [(9, 0.25), (3, 0.5), (9, 0.0)])
def test_region_equals_the_naive_formula(topk: int, ratio: float) -> None:
    anchors = _anchors().tolist()
    expected = [0.0] * len(anchors)
    for box in BOXES.tolist():
        overlaps = [_iou(anchor, box) for anchor in anchors]
        picked, begin = [], 0
        for size in SIZES:
            level = sorted(overlaps[begin : begin + size], key=lambda o: o[2])
            # ties of the distance between unequal overlaps would leave the choice open
            assert len(level) <= topk or level[topk - 1][2] < level[topk][2] or level[topk - 1][0] == level[topk][0]
            picked += [o[0] for o in level[:topk]]
            begin += size
        mean = sum(picked) / len(picked)
        threshold = mean + math.sqrt(sum((o - mean) ** 2 for o in picked) / (len(picked) - 1))
        for i, (iou, measure, _) in enumerate(overlaps):
            if ratio * threshold <= measure < threshold:
                expected[i] = max(expected[i], iou)
    actual = valuable_region(_anchors(), BOXES, SIZES, topk=topk, ratio=ratio)
    assert actual.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert 5 < actual.count_nonzero() < len(anchors) - 5
    assert not valuable_region(_anchors(), torch.zeros(0, 4), SIZES).any(), 'no boxes'
    assert valuable_region(torch.zeros(0, 4), BOXES, [0, 0, 0]).shape == (0,), 'no anchors'


# Inputs and options that are refused, in words; unequal shapes of both sides are asked in tests/properties


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


MAP, ROWS = zeros(2, 8, 7, 9), zeros(5, 8)
WIDE = zeros(1, 32, 8, 8)
dense = partial(losses.dense_contrast, pool_size=0)


@pytest.mark.parametrize(('loss', 'inputs', 'options', 'words'), [
    (dense, (WIDE, WIDE), dict(groups=1), r'groups must be at least 2 .* got 1'),
    (dense, (WIDE[:, 2:], WIDE[:, 2:]), {}, r'groups=16 does not divide the 30 channels'),
    (dense, (WIDE, WIDE), dict(pool_size=-1), r'pool_size must be 0'),
    (dense, (WIDE, WIDE), dict(patch_size=(0, 4)), r'patch_size must be \(height, width\)'),
    (dense, (WIDE, WIDE), dict(contrast='spatial', patch_size=(1, 1)), r'patch_size must hold two positions'),
    (dense, (WIDE, WIDE), dict(contrast='pixel'), r"contrast must be one of .*'omni'.* got 'pixel'"),
    (dense, (WIDE, WIDE), dict(negatives='some'), r"negatives must be one of .* got 'some'"),
    (dense, (WIDE, WIDE), dict(temperature=0.0), r'temperature must be above 0, got 0.0'),
    *((losses.softmax_divergence, (MAP, MAP), dict(weight=zeros(*shape)), r'weight must be \(2, 7, 9\), got')
      for shape in ((2,), (2, 1), (2, 9, 7))),
    (losses.pixel_info_nce, (ROWS, ROWS, ROWS, 0.2, zeros(4)), {}, r'row_weight must be \(5,\), got \(4,\)'),
], ids=lambda value: getattr(value, '__name__', ''))  # fmt: skip
def test_what_a_loss_refuses(loss: Any, inputs: tuple[Tensor, ...], options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        loss(*inputs, **options)
