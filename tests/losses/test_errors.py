"""Inputs and options that a loss refuses, in words; unequal shapes of both sides are asked in tests/properties."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from mmdistill_dense import losses


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


MAP, ROWS, KEYS, LOGITS = zeros(2, 8, 7, 9), zeros(5, 8), zeros(3, 4, 8), zeros(5, 4, 6)
WIDE = zeros(1, 32, 8, 8)
dense = partial(losses.dense_contrast, pool_size=0)


@pytest.mark.parametrize(('loss', 'inputs', 'options', 'words'), [
    (dense, (WIDE, WIDE), dict(groups=1), r'groups must be at least 2 .* got 1'),
    (dense, (WIDE, WIDE), dict(groups=1, contrast='channel'), r'groups must be at least 2'),
    (dense, (WIDE[:, 2:], WIDE[:, 2:]), {}, r'groups=16 does not divide the 30 channels'),
    (dense, (WIDE, WIDE), dict(pool_size=-1), r'pool_size must be 0'),
    (dense, (WIDE, WIDE), dict(patch_size=(0, 4)), r'patch_size must be \(height, width\)'),
    (dense, (WIDE, WIDE), dict(contrast='spatial', patch_size=(1, 1)), r'patch_size must hold two positions'),
    (dense, (WIDE, WIDE), dict(contrast='pixel'), r"contrast must be one of .*'omni'.* got 'pixel'"),
    (dense, (WIDE, WIDE), dict(negatives='some'), r"negatives must be one of .* got 'some'"),
    (dense, (WIDE, WIDE), dict(temperature=0.0), r'temperature must be above 0, got 0.0'),
    (losses.masked_align_conv, (MAP, zeros(2, 1, 7, 8), zeros(4, 8, 1, 1), zeros(4), zeros(4, 4, 3, 3), zeros(4)), {},
     r'keep must be \(2, 1, 7, 9\)'),
    (losses.channel_divergence, (ROWS, ROWS), {}, r'at least one axis of positions, got \(5, 8\)'),
    (losses.weighted_divergence, (LOGITS, LOGITS, zeros(5)), {}, r'weight must be \(5, 4\), got \(5,\)'),
    *((losses.softmax_divergence, (MAP, MAP), dict(weight=zeros(*shape)), r'weight must be \(2, 7, 9\), got')
      for shape in ((2,), (2, 1), (2, 9, 7))),
    (losses.focal_error, (MAP, MAP, zeros(2, 63), zeros(2, 8)), {}, r'position must be \(2, 7, 9\)'),
    (losses.focal_error, (MAP, MAP, zeros(2, 7, 9), zeros(8)), {}, r'channel must be \(2, 8\)'),
    (losses.shifted_error, (MAP, MAP, zeros(2, 1)), {}, r'shift must be \(2, 8\)'),
    (losses.similarity_divergence, (ROWS, KEYS, ROWS, KEYS), dict(row_weight=zeros(3)),
     r'row_weight must be \(5,\), got \(3,\)'),
    (losses.similarity_divergence, (ROWS, KEYS, ROWS[1:], KEYS), {}, 'differ in rows or keys: 5 rows'),
    (losses.similarity_divergence, (ROWS, KEYS[..., 1:], ROWS, KEYS), {}, 'student rows must be'),
    (losses.pixel_info_nce, (ROWS, ROWS[1:], ROWS), {}, r'rows differ in shape: \(5, 8\) and \(4, 8\)'),
    (losses.pixel_info_nce, (ROWS, ROWS, zeros(6, 7)), {}, r'negatives \(K, C\), got \(5, 8\) and \(6, 7\)'),
    (losses.pixel_info_nce, (ROWS, ROWS, ROWS, 0.2, zeros(4)), {}, r'row_weight must be \(5,\), got \(4,\)'),
    (losses.normalize_pixels, (MAP, zeros(2, 9, 7).bool()), {}, r'valid must be \(2, 7, 9\) for a map of'),
    (losses.masked_feature_loss, (MAP, MAP, zeros(6, 7)), {}, r'tokens must be \(T, 8\) for a map of .* got \(6, 7\)'),
    (losses.weighted_mse, (MAP, MAP, zeros(2, 7, 9)), {}, r'weight must be \(N, 1, H, W\)'),
    (losses.prototype_distance, (MAP, MAP, zeros(2, 7, 8).long()), dict(num_classes=4),
     r'labels of shape \(2, 7, 8\) do not fit maps of \(2, 8, 7, 9\)'),
    (losses.frequency_terms, (MAP, MAP[..., 1:], zeros(4, 2, 8)), {}, 'student and teacher maps differ in shape'),
], ids=lambda value: getattr(value, '__name__', ''))  # fmt: skip
def test_what_a_loss_refuses(loss: Any, inputs: tuple[Tensor, ...], options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        loss(*inputs, **options)
