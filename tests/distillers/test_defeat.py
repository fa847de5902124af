"""DeFeat: its formula, boxes on levels and cells, real detectors, two processes' cells, and what it refuses."""

import math

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmdistill_dense.distillers import DeFeat
from mmdistill_dense.losses import covered_cells
from tests.distillers.steps import draw, set_up

BOXES = [
    [[3.0, 9.0, 60.0, 62.5], [20.0, 20.0, 27.0, 60.0], [-5.0, -3.0, 30.0, 12.0]],
    # the last is as large as two bases of 14: on the next level
    [[60.0, 60.0, 64.0, 64.0], [0.0, 0.0, 64.0, 64.0], [64.0, 10.0, 64.0, 50.0], [0.0, 30.0, 27.0, 57.0]],
]


def pictures(boxes, padded=(64, 64)):
    return [
        DetDataSample(
            metainfo=dict(batch_input_shape=padded), gt_instances=InstanceData(bboxes=torch.tensor(one).reshape(-1, 4))
        )
        for one in boxes
    ]


def naive_mask(boxes, side, stride, level, levels, base):
    """Loops over boxes and cells in plain numbers."""
    mask = [[0.0] * side for _ in range(side)]
    for x1, y1, x2, y2 in boxes:
        size = math.log2(math.sqrt((x2 - x1 + 1) * (y2 - y1 + 1)) / base + 1e-6)
        if min(max(math.floor(size), 0), levels - 1) != level:
            continue
        columns = range(max(int(x1 / stride), 0), min(int(x2 / stride), side))
        rows = range(max(int(y1 / stride), 0), min(int(y2 / stride), side))
        if not columns or not rows:
            columns, rows = ([min(max(int(start / stride), 0), side - 1)] for start in (x1, y1))
        for row in rows:
            for column in columns:
                mask[row][column] = 1.0
    return mask


@pytest.mark.parametrize('base', [56.0, 14.0])
@pytest.mark.parametrize('boxes', [BOXES, [BOXES[0], []], [[], []]], ids=['boxes', 'one without', 'none'])
def test_the_naive_formula(boxes, base):
    sides = [8, 4, 2]
    levels = [((3, side, side), (3, side, side)) for side in sides]
    defeat = set_up(DeFeat, *levels, align='none', base_size=base, foreground_weight=0.7, background_weight=1.3)
    student, teacher = ([draw(2, 3, side, side, seed=seed + side) for side in sides] for seed in (0, 50))
    found = defeat({'tap': student}, {'tap': teacher}, pictures(boxes))
    expected = [0.0, 0.0]
    for level, side in enumerate(sides):
        masks = [naive_mask(one, side, 64 // side, level, 3, base) for one in boxes]
        for kind, weight in enumerate((0.7, 1.3)):
            total = count = 0.0
            for b in range(2):
                for y in range(side):
                    for x in range(side):
                        if masks[b][y][x] == 1 - kind:
                            count += 1
                            error = student[level][b, :, y, x] - teacher[level][b, :, y, x]
                            total += sum(float(value) ** 2 for value in error)
            expected[kind] += weight / 3 * total / max(1, 2 * 3 * count)
    assert [float(found[f'loss_{name}']) for name in ('foreground', 'background')] == pytest.approx(expected, rel=1e-12)
    assert bool(expected[0]) == any(boxes)


def test_boxes_that_are_not_chosen_cover_nothing():
    boxes = torch.tensor([[0.0, 0.0, 2.0, 1.0], [1.0, 1.0, 3.0, 3.0]])
    assert covered_cells(boxes, 3, 3).tolist() == [[1, 1, 0], [0, 1, 1], [0, 1, 1]]
    assert covered_cells(boxes, 3, 3, torch.tensor([True, False])).tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_the_convolution_starts_near_zero():
    conv = set_up(DeFeat, [(6, 8, 8), (10, 8, 8)]).aligns[0]
    assert conv.weight.shape == (10, 6, 3, 3) and conv.padding == (1, 1)
    weight = conv.weight.detach()
    assert 0 < weight.abs().max() < 2e-4 and float(weight.std()) == pytest.approx(0.88e-4, rel=0.15)
