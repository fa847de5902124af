"""Every loss, and what the losses are made of, over drawn shapes, values and precisions: what a formula promises."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from mmdistill_dense import losses
from tests.properties.cases import CASES, few, many
from tests.properties.promises import BLOCKS, PARTS, QUESTIONS, Draw, promises

FEWER, LONGER = settings(few, max_examples=4), settings(many, max_examples=20)  # five questions of every loss
# What is asked, and how often: in `make test` and in `make soak`.
ASKED: dict[str, tuple[Callable[[Draw], None], settings, settings]] = {}
for name, case in CASES.items():
    for promise, function in promises(case).items():
        ASKED[f'{name}-{promise}'] = partial(function, case), few, many
    for question in QUESTIONS:
        ASKED[f'{name}-{question.__name__}'] = partial(question, case), FEWER, LONGER
for part in PARTS:
    ASKED[part.__name__] = part, few, many


@pytest.mark.parametrize('length', [1, pytest.param(2, marks=pytest.mark.soak)])
@pytest.mark.parametrize('name', ASKED)
def test_property(name: str, length: int) -> None:
    asked, effort = ASKED[name][0], ASKED[name][length]

    @effort
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        asked(data.draw)

    holds()


def test_every_loss_is_asked() -> None:
    """What is no loss of its own, or is asked elsewhere."""
    parts_of_losses = {
        *('Branch', 'check_contrast', 'contrast_temperature', 'loss_dtype', 'key_ranks', 'normalize_pixels', 'to_grid'),
        *('spatial_gate', 'to_device', 'linear_read', 'query_terms', 'spatial_attention', 'standardised', 'inverse'),
        *('centres_inside', 'box_weights', 'background_weights', 'valuable_region', 'gate', 'mask_weights', 'haar'),
        *('pixel_weights', 'token_masks', 'centre_keep', 'masked_align_conv', 'masked_conv', 'random_keep'),
        *('aligned_scale', 'channel_attention', 'channel_moments', 'covered_cells', 'feature_richness'),
        *('frequency_gate', 'frequency_masks'),
    }
    assert set(losses.__all__) - parts_of_losses == {name for name in CASES if ' ' not in name}
    sizes = {name for block in BLOCKS.values() for name in block}
    assert {'_BLOCK_ELSEWHERE', '_PAIRS', '_CHUNK', '_COLUMNS', '_BLOCK_BYTES'} <= sizes, 'what blocks are cut by'
