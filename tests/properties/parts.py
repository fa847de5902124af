"""What the losses are made of, over drawn shapes and values, where no formula beside them says it: boxes and grids."""

import math
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch

from mmdistill_dense import losses
from tests.properties.promises import in_blocks
from tests.properties.strategies import batches, channels, seeds, sides, tensor, values

Draw = Callable[..., Any]
DOUBLE = torch.float64


def box_weights_are_inverse_areas(draw: Draw) -> None:
    """A cell has the weight of the smallest box over it, whatever the order of the boxes; none: all 0."""
    height, width, count = draw(sides), draw(sides), draw(st.integers(0, 5))
    corners = tensor(draw(seeds), 'normal', (count, 2), DOUBLE) * 5
    boxes = torch.cat([corners, corners + tensor(draw(seeds), 'normal', (count, 2), DOUBLE).abs() * 4], 1)
    with in_blocks(draw(st.sampled_from([1, 3, 64]))):
        painted = losses.box_weights(boxes, height, width)
    assert painted.shape == (height, width)
    assert torch.equal(painted, losses.box_weights(boxes.flip(0), height, width))
    for i in range(height):
        for j in range(width):
            sizes = [
                (math.ceil(x2) - math.floor(x1) + 1) * (math.ceil(y2) - math.floor(y1) + 1)
                for x1, y1, x2, y2 in boxes.tolist()
                if math.floor(x1) <= j <= math.ceil(x2) and math.floor(y1) <= i <= math.ceil(y2)
            ]
            assert float(painted[i, j]) == pytest.approx(1 / min(sizes) if sizes else 0)
    outside = losses.background_weights(painted[None])
    assert float(outside.sum()) == pytest.approx(float((painted == 0).any()))
    assert not (outside[0] * painted).any()


def grids_fit(draw: Draw) -> None:
    """A constant stays, values stay in their range, the size is the asked one; whole images have all pixels inside."""
    shape = draw(batches), draw(channels), draw(sides), draw(sides)
    x = tensor(*draw(values(('normal', 'constant'))), shape, DOUBLE)
    size = draw(sides), draw(sides)
    found = losses.to_grid(x, size)
    assert found.shape == (*x.shape[:2], *size)
    assert found.min() >= x.min() - 1e-9 and found.max() <= x.max() + 1e-9
    padded = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    images = [(draw(st.integers(1, padded[0])), draw(st.integers(1, padded[1]))) for _ in range(2)]
    inside = losses.centres_inside([*images, padded], padded, size)
    assert inside.shape == (3, *size) and inside[2].all()
    for found, image in zip(inside, images, strict=False):
        rows, columns = (
            [(i + 0.5) * (padded[axis] / size[axis]) < image[axis] for i in range(size[axis])] for axis in (0, 1)
        )
        assert found.tolist() == [[row and column for column in columns] for row in rows]


PARTS = (box_weights_are_inverse_areas, grids_fit)
