import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mmdistill_dense.losses import centre_keep, masked_align_conv, masked_conv, random_keep


def _inputs(dtype: torch.dtype, *, cs: int = 5, ct: int = 24, height: int = 11, width: int = 13) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, cs, height, width), (ct, cs, 1, 1), (ct,), (ct, ct, 3, 3), (ct,)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]


@pytest.mark.parametrize('kernel', [1, 3, 5])
def test_products_of_the_kept_positions_alone(kernel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taps beyond every border, and the output can be changed in place; a mask that is not bool goes the other way."""
    feat, align, bias, *_ = _inputs(torch.float64)
    weight = torch.randn(24, 24, kernel, kernel, dtype=torch.float64, requires_grad=True)
    parameters = [feat, align, bias, weight, torch.randn(24, dtype=torch.float64, requires_grad=True)]
    keep = random_keep((2, 11, 13), 0.5, torch.Generator().manual_seed(1))
    keep[:, :, 0, 0] = keep[:, :, -1, -1] = True
    calls = []
    convolve = F.conv2d
    monkeypatch.setattr(F, 'conv2d', lambda x, *args, **kwargs: calls.append(x.shape) or convolve(x, *args, **kwargs))
    results = []
    for mask in (keep, keep.double()):
        output = masked_align_conv(parameters[0], mask, *parameters[1:]).relu_()
        results.append([output.detach(), *torch.autograd.grad(output.square().sum(), parameters)])
    assert [shape[0] for shape in calls] == [24, 24, 2]  # maps were convolved once
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('ratio', [0.75, 0.25])
@pytest.mark.parametrize('cs', [5, 24], ids=['folded', 'rows'])
def test_the_cheaper_order_of_the_positions_that_are_kept(cs: int, ratio: float) -> None:
    """Forward and backward pass: at most 1.3 times the multiply-adds of the cheaper of both orders."""
    feat, *weights = _inputs(torch.float32, cs=cs, height=16, width=16)
    keep = random_keep((2, 16, 16), ratio, torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        masked_align_conv(feat, keep, *weights).sum().backward()
    n, ct = int(keep.sum()) if ratio > 0.4 else keep.numel(), 24
    orders = n * ct * (cs + 9 * ct), 9 * ct * (cs + 1) * (n + ct)
    assert counter.get_total_flops() <= 1.3 * 3 * 2 * min(orders)


def test_a_convolution_without_an_align() -> None:
    """The products of dropped positions are left out where they are many, and only with a mask that can be read."""
    feat, *_, weight, bias = _inputs(torch.float64, cs=24)
    for ratio in (0.75, 0.25):
        keep = random_keep((2, 11, 13), ratio, torch.Generator().manual_seed(1))
        results = []
        for mask in (keep, keep.double()):
            output = masked_conv(feat, mask, weight, bias)
            results.append([output, *torch.autograd.grad(output.square().sum(), [feat, weight, bias])])
        torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)
        with FlopCounterMode(display=False) as counter:
            masked_conv(feat, keep, weight, bias)
        assert counter.get_total_flops() == 2 * 9 * 24 * 24 * (int(keep.sum()) if ratio > 0.4 else keep.numel())


def test_random_mask_statistics() -> None:
    keep = random_keep((10, 100, 100), 0.75, torch.Generator().manual_seed(0))
    assert keep.shape == (10, 1, 100, 100) and keep.dtype == torch.bool
    assert abs(keep.float().mean().item() - 0.25) < 0.01
    assert not torch.equal(keep[0], keep[1])


def test_centre_mask() -> None:
    keep = centre_keep((2, 16, 32))
    expected = torch.ones(2, 1, 16, 32, dtype=torch.bool)
    expected[:, :, 5:10, 10:21] = False
    assert torch.equal(keep, expected)
