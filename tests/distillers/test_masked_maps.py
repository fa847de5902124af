"""Methods that drop positions of the student's map at random: MGD and AfDCD."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense.distillers import MGD, AfDCD
from mmdistill_dense.losses import dense_contrast
from tests.distillers.steps import draw, set_up
from tools.benchmark import reference


def run(distiller, student, teacher):
    return distiller({'tap': [student]}, {'tap': [teacher]}, None)


@pytest.mark.parametrize('reduction', ['sum', 'mean'])
def test_equals_the_formula_of_mgd(reduction):
    distiller = set_up(MGD, [(3, 6, 5), (4, 6, 5)], alpha=0.5, reduction=reduction)
    student, teacher = draw(4, 3, 6, 5), draw(4, 4, 6, 5, seed=1)
    aligned = torch.einsum('oc,bchw->bohw', distiller.aligns[0].weight[..., 0, 0], student)
    aligned = aligned + distiller.aligns[0].bias[:, None, None]
    keep = distiller.keep((4, 6, 5), 0)
    assert set(keep.unique().tolist()) == {False, True} and keep.shape == (4, 1, 6, 5)
    first, _, second = distiller.parts[0]
    block = (first.weight, first.bias, second.weight, second.bias)
    total = reference.mgd(aligned, *block, teacher, keep).item()  # the sum by the batch
    expected = 0.5 * total / (1 if reduction == 'sum' else teacher[0].numel())
    assert run(distiller, student, teacher)['loss_mgd'].item() == pytest.approx(expected, rel=1e-9)


def _afdcd(student: int = 6, teacher: int = 32, size: int = 16, **options) -> AfDCD:
    return set_up(AfDCD, [(student, size, size), (teacher, size, size)], **options)


def _maps(student: int = 6, teacher: int = 32, size: int = 16) -> tuple[Tensor, Tensor]:
    return draw(2, student, size, size).requires_grad_(), draw(2, teacher, size, size, seed=1).relu()


def _rebuilt(distiller: AfDCD, feat: Tensor, keep: Tensor) -> Tensor:
    """The projector's formula, one operation after the other."""
    part = distiller.parts[0]
    masked = part.align(feat) * keep
    if distiller.projector == 'plain':
        return part.conv2(part.conv1(masked).relu())
    x1 = part.block1(masked).relu()
    x2 = part.block2(x1).relu()
    return (part.adaptor1(x1) + part.adaptor2(x2)) / 2


@pytest.mark.parametrize(
    ('teacher', 'size', 'groups', 'pool_size'), [(32, 16, 16, 4), (24, 15, 8, 0), (18, 40, 2, 4), (32, 8, 16, 0)]
)
def test_groups_and_pooling_by_the_map(teacher: int, size: int, groups: int, pool_size: int) -> None:
    auto = _afdcd(teacher=teacher, size=size, groups='auto', pool_size='auto')
    written = _afdcd(teacher=teacher, size=size, groups=groups, pool_size=pool_size)
    maps = _maps(teacher=teacher, size=size)
    assert torch.equal(run(auto, *maps)['loss_ctr'], run(written, *maps)['loss_ctr'])


@pytest.mark.parametrize('projector', ['plain', 'enhanced'])
@pytest.mark.parametrize('mask', [dict(type='random', ratio=0.5), dict(type='centre')])
def test_equals_the_formula_of_afdcd(mask: dict, projector: str) -> None:
    distiller = _afdcd(mask=mask, projector=projector, fd_weight=2e-4, ctr_weight=0.3)
    feat, target = _maps()
    losses = run(distiller, feat, target)
    rebuilt = _rebuilt(distiller, feat, distiller.keep((2, 16, 16), 0))
    expected = {
        'loss_fd': 2e-4 * (rebuilt - target).square().sum() / 2,
        'loss_ctr': 0.3 * dense_contrast(rebuilt, target),
    }
    torch.testing.assert_close(losses, expected)
    inputs = [feat, *distiller.parameters()]
    grads = [torch.autograd.grad(sum(terms.values()), inputs) for terms in (losses, expected)]
    for ours, naive in zip(*grads, strict=True):
        torch.testing.assert_close(ours, naive, rtol=1e-3, atol=1e-3 * float(naive.abs().max()))


def test_default_mimicking_is_cityscapes_at_any_size() -> None:
    """33.6 times the mean is what 2e-6 times the sum is on the paper's 2048 x 64 x 128."""
    default = run(_afdcd(), *_maps())['loss_fd']
    by_sum = run(_afdcd(fd_weight=2e-6 * (2048 * 64 * 128) / (32 * 16 * 16)), *_maps())['loss_fd']
    assert default.item() == pytest.approx(by_sum.item(), rel=2e-3)


def test_other_map_sizes() -> None:
    levels = (6, 8, 8), (32, 16, 16)
    distiller = set_up(AfDCD, levels, fd_weight=1.0, ctr_weight=0, mask=dict(type='random', ratio=0.0))
    feat, target = draw(2, 6, 8, 8), draw(2, 32, 16, 16, seed=1)
    # resizing before the align is resizing after it
    part = distiller.parts[0]
    aligned = F.interpolate(part.align(feat), (16, 16), mode='bilinear', align_corners=False)
    expected = (part.conv2(part.conv1(aligned).relu()) - target).square().sum() / 2
    torch.testing.assert_close(run(distiller, feat, target)['loss_fd'], expected)
