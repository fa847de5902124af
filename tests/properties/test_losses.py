"""Every loss over drawn shapes, values and precisions: what its formula promises."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mmdistill_dense import losses
from tests.properties.cases import CASES
from tests.properties.promises import promises
from tests.properties.strategies import few, many

ASKED = [(name, promise) for name, case in CASES.items() for promise in promises(case)]


def _try(name: str, promise: str, effort: object) -> None:
    @effort
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        promises(CASES[name])[promise](CASES[name], data.draw)

    holds()


@pytest.mark.parametrize(('name', 'promise'), ASKED)
def test_promise(name: str, promise: str) -> None:
    _try(name, promise, few)


@pytest.mark.soak
@pytest.mark.parametrize(('name', 'promise'), ASKED)
def test_promise_at_length(name: str, promise: str) -> None:
    _try(name, promise, many)


def test_every_loss_is_asked() -> None:
    """What is no loss of its own, or is asked elsewhere."""
    parts = {
        *('Branch', 'check_contrast', 'contrast_temperature', 'loss_dtype', 'key_ranks', 'normalize_pixels'),
        *('spatial_gate', 'to_device', 'to_grid'),
        *('centres_inside', 'box_weights', 'background_weights', 'valuable_region', 'gate', 'mask_weights'),
        *('pixel_weights', 'token_masks', 'centre_keep', 'masked_align_conv', 'random_keep'),
        *('channel_attention', 'spatial_attention'),
    }
    assert set(losses.__all__) - parts == {name for name in CASES if ' ' not in name}
