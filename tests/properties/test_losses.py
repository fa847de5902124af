"""Every loss over drawn shapes, values and precisions: what its formula promises."""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from mmdistill_dense import losses
from tests.properties.cases import CASES, Case
from tests.properties.promises import BLOCKS, promises
from tests.properties.strategies import ORDINARY, few, many

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


def test_every_loss_with_blocks_is_cut_into_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that reads its sizes elsewhere would keep its promise without being asked."""
    modules = {path.stem: ast.parse(path.read_text()) for path in Path(losses.__file__).parent.glob('*.py')}
    named = {
        f'{name}.{function.name}'
        for name, module in modules.items()
        for function in module.body
        if isinstance(function, ast.FunctionDef) and 'block_elements(' in ast.unparse(function.body)
    } - {'contrast_plain.loss_and_grad'}  # which asks for the size on a GPU alone
    assert len(named) >= 6
    sizes = {name for found in BLOCKS.values() for name in found}
    assert {'_BLOCK_ELSEWHERE', '_PAIRS', '_CHUNK', '_COLUMNS', '_BLOCK_BYTES'} <= sizes, 'what is found is changed'
    asked = set()

    def noted(device: torch.device) -> int:
        frame = sys._getframe(1)
        asked.add(f'{frame.f_globals["__name__"].rpartition(".")[2]}.{frame.f_code.co_name}')
        return 1

    for name in {name.partition('.')[0] for name in named}:
        module = import_module(f'{losses.__name__}.{name}')
        monkeypatch.setattr(module, 'block_elements', noted)
    monkeypatch.setattr('mmdistill_dense.losses.contrast_plain._PAIRS', 1)

    def compute(case: Case) -> None:
        @few
        @given(st.data())
        def computed(data: st.DataObject) -> None:
            inputs, options = case.draw(data.draw, ORDINARY, torch.float64)
            case.loss(**inputs, **options)

        computed()

    for case in CASES.values():
        compute(case)
    assert asked == named
