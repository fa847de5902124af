"""What the losses are made of, over drawn shapes and values: weights, masks, attention, grids, regions."""

import math
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F

from mmdistill_dense import losses
from tests.properties.promises import in_blocks
from tests.properties.strategies import KINDS, batches, channels, map_shapes, seeds, sides, tensor, values

Draw = Callable[..., Any]
DOUBLE = torch.float64


def box_weights_are_inverse_areas(draw: Draw) -> None:
    """A cell has the weight of the smallest box over it, whatever the order of the boxes; none: all 0."""
    height, width, count = draw(sides), draw(sides), draw(st.integers(0, 5))
    corners = tensor(draw(seeds), 'normal', (count, 2), DOUBLE) * 5
    boxes = torch.cat([corners, corners + tensor(draw(seeds), 'normal', (count, 2), DOUBLE).abs() * 4], 1)
    with in_blocks(draw(st.sampled_from([1, 3, 64]))):
        painted = losses.box_weights(boxes, height, width)
    assert painted.shape == (height, width) and (painted >= 0).all() and (painted <= 1).all()
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


def attention_has_mean_one(draw: Draw) -> None:
    x = tensor(*draw(values(KINDS)), draw(map_shapes()))
    temperature = draw(st.sampled_from([0.1, 1.0, 4.0]))
    for attention, axes in ((losses.spatial_attention, (1, 2)), (losses.channel_attention, 1)):
        found = attention(x, temperature)
        assert (found >= 0).all()
        torch.testing.assert_close(found.mean(axes), torch.ones(len(x)), rtol=1e-5, atol=0)


def masks_share_one(draw: Draw) -> None:
    """Masks lie in [0, 1], the weights of an image's masks sum to 1, those of its positions to at most 1."""
    dtype = draw(st.sampled_from([torch.float16, torch.bfloat16, torch.float32, DOUBLE]))
    x = tensor(*draw(values(('normal', 'sparse', 'zeros', 'constant', 'one pixel'))), draw(map_shapes()), dtype)
    b, c, h, w = x.shape
    count = draw(batches)
    tokens = tensor(*draw(values(('normal', 'large'))), (count, c), dtype)
    shapes = (c, c, 3, 3), (c,), (count, c, 1, 1), (count,)
    branch = losses.Branch(*(tensor(draw(seeds), 'normal', shape, dtype) for shape in shapes))
    masks, weights = losses.token_masks(tokens, x), losses.mask_weights(branch, x)
    wide = DOUBLE if dtype == DOUBLE else torch.float32
    assert masks.shape == (b, count, h, w) and masks.dtype == weights.dtype == wide
    assert (masks >= 0).all() and (masks <= 1).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(b, dtype=wide))
    lifted = losses.Branch(*(part.to(DOUBLE) for part in branch))
    convolved = F.conv2d(x.to(DOUBLE), lifted.conv_weight, lifted.conv_bias, padding=1).mean((2, 3), keepdim=True)
    expected = F.conv2d(convolved, lifted.fc_weight, lifted.fc_bias).flatten(1).softmax(1)
    torch.testing.assert_close(weights.to(DOUBLE), expected, rtol=1e-3, atol=1e-4)
    for share in (None, weights):
        position = losses.pixel_weights(masks, share)
        assert position.shape == (b, 1, h, w) and position.isfinite().all() and (position >= 0).all()
        assert (position.sum((1, 2, 3)) <= 1 + 1e-5).all()
    gated = losses.gate(x, masks, weights)
    assert gated.shape == x.shape and gated.dtype == dtype


def pixels_become_unit_rows(draw: Draw) -> None:
    """A kept pixel has length 1, others are zero rows; a gate keeps the sign of what it lets through."""
    x = tensor(*draw(values(KINDS)), draw(map_shapes()))
    b, _, h, w = x.shape
    valid = torch.rand(b, h, w, generator=torch.Generator().manual_seed(draw(seeds))) < 0.7
    rows, weight = losses.normalize_pixels(x, valid)
    torch.testing.assert_close(rows.norm(dim=1), weight)
    assert not weight[~valid.flatten()].any()
    kind = draw(st.sampled_from(['relu', 'gelu', 'silu']))
    gated = losses.spatial_gate(x, kind)
    assert gated.shape == x.shape and (gated.abs() <= x.abs()).all() and (gated * x >= 0).all()
    mean = x.double().mean((2, 3))
    activated = {'relu': F.relu, 'gelu': F.gelu, 'silu': F.silu}[kind](mean)
    torch.testing.assert_close(gated.double().mean((2, 3)), activated, rtol=1e-3, atol=1e-5 * float(x.abs().max() + 1))


def ranks_count(draw: Draw) -> None:
    """Between 0 and the number of negatives, 0 for a vector that is its own key and far from all others."""
    rows, c, count = draw(batches), draw(channels), draw(st.integers(0, 6))
    seed = draw(seeds)  # three different ones: where two are equal, rounding decides
    vectors, keys = (tensor(seed + i, 'normal', (rows, c)) for i in range(2))
    negatives = F.normalize(tensor(seed + 2, 'normal', (count, c)), dim=1)
    ranks = losses.key_ranks(vectors, keys, negatives)
    assert ranks.shape == (rows,) and (ranks >= 0).all() and (ranks <= count).all()
    assert torch.equal(ranks, losses.key_ranks(3 * vectors, keys / 2, negatives.flip(0)))


def grids_fit(draw: Draw) -> None:
    """A constant stays, values stay in their range, the size is the asked one; whole images have all pixels inside."""
    x = tensor(*draw(values(('normal', 'constant'))), draw(map_shapes()), DOUBLE)
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


def regions_lie_in_range(draw: Draw) -> None:
    """Weights of anchors lie in [0, 1] whatever the boxes are: none, points, equal to an anchor, outside."""
    levels = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    corners = tensor(draw(seeds), 'normal', (sum(levels), 2)) * 20
    anchors = torch.cat([corners, corners + tensor(draw(seeds), 'normal', (sum(levels), 2)).abs() * 10], 1)
    count = draw(st.integers(0, 3))
    corners = tensor(draw(seeds), 'normal', (count, 2)) * 20
    size = tensor(draw(seeds), draw(st.sampled_from(['normal', 'zeros'])), (count, 2)).abs() * 30
    boxes = torch.cat([corners, corners + size], 1)
    if draw(st.booleans()):
        boxes = torch.cat([boxes, anchors[:1]])
    topk = draw(st.integers(1, 9))
    weights = losses.valuable_region(anchors, boxes, levels, topk=topk)
    assert weights.shape == (sum(levels),) and weights.isfinite().all()
    assert (weights >= 0).all() and (weights <= 1 + 1e-6).all()
    again = losses.valuable_region(anchors, torch.cat([boxes, boxes]), levels, topk=topk)
    assert torch.equal(weights, again), 'a box twice is that box'


def masks_of_pictures(draw: Draw) -> None:
    """Nothing is dropped at ratio 0, all at ratio 1; the centre is fixed; folding the align changes no result."""
    b, c, h, w = draw(map_shapes())
    draw_from = torch.Generator().manual_seed(draw(seeds))
    ratio = draw(st.sampled_from([0.0, 0.3, 0.75, 1.0]))
    keep = draw(st.sampled_from([losses.random_keep((b, h, w), ratio, draw_from), losses.centre_keep((b, h, w))]))
    assert keep.shape == (b, 1, h, w) and keep.dtype == torch.bool
    assert losses.random_keep((b, h, w), 0.0, draw_from).all()
    assert int((~losses.centre_keep((b, h, w))).sum()) == b * (2 * h // 3 - h // 3) * (2 * w // 3 - w // 3)
    ct, co, kernel = draw(st.integers(1, 24)), draw(channels), draw(st.sampled_from([1, 3, 5]))
    shapes = (b, c, h, w), (ct, c, 1, 1), (ct,), (co, ct, kernel, kernel), (co,)
    inputs = [tensor(draw(seeds), 'normal', shape, DOUBLE).requires_grad_() for shape in shapes]
    aligned = F.conv2d(inputs[0], *inputs[1:3]) * keep
    results = (
        losses.masked_align_conv(inputs[0], keep, *inputs[1:]),
        F.conv2d(aligned, *inputs[3:], padding=kernel // 2),
    )
    (ours, ours_grads), (theirs, theirs_grads) = ((x, torch.autograd.grad(x.sum(), inputs)) for x in results)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours_grads, theirs_grads, rtol=1e-9, atol=1e-9)


PARTS = (
    *(box_weights_are_inverse_areas, attention_has_mean_one, masks_share_one, pixels_become_unit_rows),
    *(ranks_count, grids_fit, regions_lie_in_range, masks_of_pictures),
)
