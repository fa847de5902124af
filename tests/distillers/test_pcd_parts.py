import copy

import pytest
import torch
from torch import nn

from mmdistill_dense.distillers.cirkd import ClassQueue
from mmdistill_dense.distillers.feature_match import ChannelStatistics
from mmdistill_dense.distillers.pcd.parts import NegativeQueue, PixelAttention


def _attention(channels=16, num_heads=4):
    torch.manual_seed(0)
    attention = PixelAttention(channels, num_heads)
    nn.init.normal_(attention.gamma)
    return attention


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_attention_starts_as_the_identity(layout):
    x = torch.randn(2, 16, 3, 5).to(memory_format=layout)
    assert torch.equal(PixelAttention(16)(x), x)


def test_attention_learns_its_vector_first_and_the_rest_from_the_second_step_on():
    torch.manual_seed(0)
    attention, x = PixelAttention(16), torch.randn(2, 16, 3, 5)
    optimizer = torch.optim.SGD(attention.parameters(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        attention(x).square().sum().backward()
        moved = {name for name, parameter in attention.named_parameters() if parameter.grad.any()}
        assert moved == ({'gamma'} if step == 0 else {name for name, _ in attention.named_parameters()})
        optimizer.step()


def test_attention_runs_under_autocast_and_warns_of_large_maps():
    attention = _attention()
    with torch.autocast('cpu', torch.bfloat16):
        y = attention(torch.randn(1, 16, 3, 5))
    assert y.isfinite().all()
    with torch.device('meta'):
        meta = PixelAttention(16)
    with pytest.warns(UserWarning, match='computes attention over 65 x 64 = 4160 pixels'):
        meta(torch.empty(1, 16, 65, 64, device='meta'))


def test_random_rows_are_unit_and_the_same_everywhere():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    queue = NegativeQueue(40, 6, 'random')
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(NegativeQueue(40, 6, 'random').rows, queue.rows)
    torch.testing.assert_close(queue.rows.norm(dim=1), torch.ones(40))
    assert len(queue.negatives()) == 40 and len(NegativeQueue(40, 6).negatives()) == 0


@pytest.mark.parametrize(
    'kept', [NegativeQueue(8, 3, 'random'), ClassQueue(2, 4, 3), ChannelStatistics(3, 5)], ids=type
)
def test_buffers_stay_in_float32_when_the_model_is_halved(kept):
    exact = {name: value.clone() for name, value in kept.named_buffers()}
    for half in (torch.float16, torch.bfloat16):
        assert all(torch.equal(value, exact[name]) for name, value in copy.deepcopy(kept).to(half).named_buffers())
    double = copy.deepcopy(kept).double()
    assert {value.dtype for value in double.buffers() if value.is_floating_point()} == {torch.float64}
