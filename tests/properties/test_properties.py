"""Every loss, and what the losses are made of, over drawn shapes, values and precisions: what a formula promises."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from mmdistill_dense import losses
from tests.properties import degenerate, parts
from tests.properties.cases import CASES, Case
from tests.properties.promises import BLOCKS, Draw, promises
from tests.properties.strategies import ORDINARY, few, many

FEWER, LONGER = settings(few, max_examples=4), settings(many, max_examples=20)  # five questions of every loss
# What is asked, and how often: in `make test` and in `make soak`.
ASKED: dict[str, tuple[Callable[[Draw], None], settings, settings]] = {}
for name, case in CASES.items():
    for promise, function in promises(case).items():
        ASKED[f'{name}-{promise}'] = partial(function, case), few, many
    for question in degenerate.QUESTIONS:
        ASKED[f'{name}-{question.__name__}'] = partial(question, case), FEWER, LONGER
for part in parts.PARTS:
    ASKED[part.__name__] = part, few, many


def _try(asked: Callable[[Draw], None], effort: settings) -> None:
    @effort
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        asked(data.draw)

    holds()


@pytest.mark.parametrize('name', ASKED)
def test_property(name: str) -> None:
    asked, effort, _ = ASKED[name]
    _try(asked, effort)


@pytest.mark.soak
@pytest.mark.parametrize('name', ASKED)
def test_property_at_length(name: str) -> None:
    asked, _, effort = ASKED[name]
    _try(asked, effort)


def test_every_loss_is_asked() -> None:
    """What is no loss of its own, or is asked elsewhere."""
    parts_of_losses = {
        *('Branch', 'check_contrast', 'contrast_temperature', 'loss_dtype', 'key_ranks', 'normalize_pixels'),
        *('spatial_gate', 'to_device', 'to_grid'),
        *('centres_inside', 'box_weights', 'background_weights', 'valuable_region', 'gate', 'mask_weights'),
        *('pixel_weights', 'token_masks', 'centre_keep', 'masked_align_conv', 'masked_conv', 'random_keep'),
        *(
            'aligned_scale',
            'channel_attention',
            'channel_moments',
            'covered_cells',
            'feature_richness',
            'frequency_gate',
            'frequency_masks',
            'haar',
            'inverse',
            'linear_read',
            'query_terms',
            'spatial_attention',
            'standardised',
        ),
    }
    assert set(losses.__all__) - parts_of_losses == {name for name in CASES if ' ' not in name}


def test_every_loss_with_blocks_is_cut_into_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that reads its sizes elsewhere would keep its promise without being asked."""
    modules = {path.stem: ast.parse(path.read_text()) for path in Path(losses.__file__).parent.glob('*.py')}
    named = {
        f'{name}.{function.name}'
        for name, module in modules.items()
        for function in module.body
        if isinstance(function, ast.FunctionDef) and 'block_elements(' in ast.unparse(function.body)
    } - {'contrast_chunks.loss_and_grad'}  # which asks for the size on a GPU alone
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
    monkeypatch.setattr('mmdistill_dense.losses.contrast_chunks._PAIRS', 1)

    def computed(case: Case, draw: Draw) -> None:
        inputs, options = case.draw(draw, ORDINARY, torch.float64)
        case.loss(**inputs, **options)

    for case in CASES.values():
        _try(partial(computed, case), FEWER)
    assert asked == named
