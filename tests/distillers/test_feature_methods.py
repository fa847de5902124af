"""Methods that hand maps or scores to one loss: which options reach it, scores that do not compete; three more."""

import statistics
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense import losses
from mmdistill_dense.distillers import AT, CWD, DIST, MGD, PKD, SKD, AfDCD, CanKD, FitNet, LogitKD, RoIHeadKD
from tests import toys
from tests.distillers.steps import divergence, draw, loss_of, run, set_up
from tools.benchmark import reference


def nodes_of_cirkd(student, teacher):
    return losses.pairwise_distance(*(F.max_pool2d(x, 4, ceil_mode=True) for x in (student, teacher)))


def standardised_channels(student, teacher):
    """By hand, over the batch and the positions, at the default temperature."""
    spread = [(x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt() for x in (student, teacher)]
    maps = [(x - x.mean((0, 2, 3), keepdim=True)) / s for x, s in zip((student, teacher), spread, strict=True)]
    return losses.channel_divergence(*maps, temperature=4.0)


@pytest.mark.parametrize(('kind', 'options', 'formula', 'of_formula'), [
    (AT, dict(power=3.0, reduction='sum'), losses.attention_distance, None),
    (CWD, {}, losses.channel_divergence, dict(temperature=4.0)),
    (CWD, dict(temperature=2.0), losses.channel_divergence, None),
    (CWD, dict(norm=True), standardised_channels, {}),
    (LogitKD, dict(temperature=4.0), losses.softmax_divergence, None),
    (LogitKD, dict(temperature=3.0, activation='sigmoid'), losses.sigmoid_divergence, dict(temperature=3.0)),
    (DIST, dict(temperature=3.0), losses.correlation_distance, None),
    (DIST, dict(beta=0.5, gamma=2.0), losses.correlation_distance, None),
    (DIST, dict(activation='sigmoid'), losses.correlation_distance, None),
    (PKD, {}, losses.standardized_mse, None),
    (SKD, dict(patch_size=4), nodes_of_cirkd, {}),
    (FitNet, dict(align='none'), F.mse_loss, {}),
])  # fmt: skip
def test_options_reach_the_formula(kind, options, formula, of_formula):
    distiller = set_up(kind, [(3, 4, 5)] * 2, **options)
    assert not list(distiller.parameters())
    student, teacher = draw(2, 3, 4, 5), draw(2, 3, 4, 5, seed=1)
    expected = formula(student, teacher, **(options if of_formula is None else of_formula))
    torch.testing.assert_close(loss_of(distiller, student, teacher), expected)


@pytest.mark.parametrize(('options', 'size', 'nodes'), [
    ({}, (8, 12), (4, 6)),
    (dict(patch_size=2), (5, 6), (3, 3)),  # a last incomplete patch is a node
    (dict(patch_size=3), (2, 9), (1, 3)),  # a patch no larger than the map
    (dict(pool_scale=0.5), (5, 12), (3, 2)),
    (dict(pool_scale=0.1), (5, 20), (5, 10)),  # never less than a position
])  # fmt: skip
def test_nodes_of_skd_are_the_largest_values_of_patches(options, size, nodes):
    x = torch.randn(2, 3, *size)
    pooled = SKD(**options).nodes(x)
    assert pooled.shape == (2, 3, *nodes) and pooled.amax() == x.amax()


@pytest.mark.parametrize('kind', [LogitKD, DIST])
@pytest.mark.parametrize('resize', ['default', 'teacher'])
def test_scores_of_another_stride_are_resized(kind, resize):
    """A transformer of stride 4 teaches a network of stride 8."""
    options = {} if resize == 'default' else dict(resize=resize)
    student, teacher = draw(2, 3, 4, 4), draw(2, 3, 8, 8, seed=1)
    distiller = set_up(kind, [(3, 4, 4), (3, 8, 8)], **options)
    size = (4, 4) if resize == 'teacher' else (8, 8)
    resized = [F.interpolate(x, size, mode='bilinear', align_corners=False) for x in (student, teacher)]
    assert torch.equal(loss_of(distiller, student, teacher), *kind('a').loss(*resized, 0).values())


def test_the_released_skd_has_no_gradient_through_the_norms():
    student, teacher = draw(1, 3, 4, 4), draw(1, 3, 4, 4, seed=1)
    along = {}
    for option in (dict(pool_scale=0.25), dict(patch_size=1)):
        x = student.clone().requires_grad_()
        (grad,) = torch.autograd.grad(loss_of(set_up(SKD, [(3, 4, 4)] * 2, **option), x, teacher), x)
        along[next(iter(option))] = (grad * x).sum(1).abs().max()
    assert along['patch_size'] < 1e-12 < 1e-3 * along['pool_scale']


@pytest.mark.parametrize('kind', [FitNet, LogitKD])
def test_a_map_that_shrinks_to_less_than_half_is_averaged(kind):
    """Interpolation would teach a quarter of the positions of a map of stride 8 beside one of stride 32."""
    for side in (16, 13, 8, 7):
        x = draw(1, 3, side, side).requires_grad_()
        distiller = set_up(kind, [(3, side, side), (3, 4, 4)], **({'align': 'none'} if kind is FitNet else {}))
        (grad,) = torch.autograd.grad(loss_of(distiller, x, draw(1, 3, 4, 4, seed=1)), x)
        assert side < 8 or grad.any(1).all()
        resized = F.interpolate(x, (4, 4), mode='bilinear', align_corners=False)
        torch.testing.assert_close(distiller.resized(x, (4, 4)), resized if side <= 8 else F.adaptive_avg_pool2d(x, 4))


@pytest.mark.parametrize(('loss', 'refused'), [
    (dict(type='FocalLoss'), True),
    ([dict(type='CrossEntropyLoss', use_sigmoid=True), dict(type='DiceLoss')], True),
    ([dict(type='FocalLoss'), dict(type='CrossEntropyLoss')], False),
    (dict(type='LovaszLoss', reduction='none'), False),
])  # fmt: skip
def test_scores_decided_one_by_one_do_not_compete(loss, refused):
    teacher = toys.seg_teacher('fcn')
    teacher['decode_head'] = dict(teacher.get('decode_head') or {}, loss_decode=loss)
    with pytest.raises(ValueError, match="loss_decode.*activation='sigmoid'") if refused else nullcontext():
        toys.distilled(teacher=teacher, distillers=dict(kd=dict(type='LogitKD')))


# Standardised scores


def standard(student, teacher, temperature=2.0):
    return losses.softmax_divergence(*map(losses.standardised, (student, teacher)), temperature=temperature)


def naive_standard(student, teacher, temperature):
    rows = [[(z - statistics.fmean(row)) / (statistics.stdev(row) + 1e-7) for z in row] for row in (student, teacher)]
    return temperature**2 * divergence(*rows, temperature)


def test_standardised_scores_give_the_example_of_the_paper():
    assert naive_standard([2, -1, 0.5], [10, 1, 4], 2.0) == pytest.approx(0.010465, abs=1e-6)
    kd = set_up(LogitKD, [(4, 2, 3), (4, 2, 3)], temperature=3.0, standardise=True)
    student, teacher = draw(2, 4, 2, 3), 5 * draw(2, 4, 2, 3, seed=1) + 100
    rows = [x.movedim(1, -1).reshape(-1, 4).tolist() for x in (student, teacher)]
    expected = sum(naive_standard(s, t, 3.0) for s, t in zip(*rows, strict=True)) / 12
    assert float(loss_of(kd, student, teacher)) == pytest.approx(expected, rel=1e-9)
    assert torch.autograd.gradcheck(lambda x: standard(x, teacher[:1]), student[:1].requires_grad_())
    flat = torch.cat([torch.full((1, 4), 0.3), draw(1, 4).float()]).requires_grad_()
    standard(flat, draw(2, 4, seed=1).float()).backward()
    assert not flat.grad[0].any() and flat.grad[1].any(), 'equal scores get no gradient'


def test_a_box_head_compares_standardised_rows():
    student, teacher = draw(5, 4), 3 * draw(5, 4, seed=1)
    roi = RoIHeadKD('x', output='cls_score', form='softmax', standardise=True, temperature=2.0)
    roi.answer = lambda features, rois: teacher
    actual = roi({'x': [student], roi.rois: [torch.zeros(5, 5)]}, {'neck': []}, None)['loss_roi']
    torch.testing.assert_close(actual, standard(student, teacher))
    with pytest.raises(ValueError, match='with 2 classes, standardised scores are constants'):
        roi.setup({'x': [torch.Size((1, 2))]}, {})


# Methods that drop positions of the student's map at random


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


@pytest.mark.parametrize('kind', [MGD, AfDCD])
def test_masks_depend_on_the_iteration(kind):
    made = set_up(kind, [(3, 16, 16), (32, 16, 16)])
    masks = [made.keep((2, 16, 16), level) for made.state.iteration in (3, 4) for level in (0, 1)]
    assert all(not torch.equal(a, b) for i, a in enumerate(masks) for b in masks[:i])


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


@pytest.mark.parametrize(('teacher', 'size', 'groups', 'pool_size'), [(32, 16, 16, 4), (24, 15, 8, 0), (18, 40, 2, 4)])
def test_groups_by_the_map(teacher: int, size: int, groups: int, pool_size: int) -> None:
    auto = _afdcd(teacher=teacher, size=size, groups='auto', pool_size='auto')
    written = _afdcd(teacher=teacher, size=size, groups=groups, pool_size=pool_size)
    maps = [x.repeat(1, 1, 1, 2) for x in _maps(teacher=teacher, size=size)]  # wide ones
    assert torch.equal(run(auto, *maps)['loss_ctr'], run(written, *maps)['loss_ctr'])


@pytest.mark.parametrize(('projector', 'contrast', 'scale'), [('plain', 'omni', 1.0), ('enhanced', 'spatial', 32.0)])
@pytest.mark.parametrize('mask', [dict(type='random', ratio=0.5), dict(type='centre')])
def test_equals_the_formula_of_afdcd(mask: dict, projector: str, contrast: str, scale: float) -> None:
    distiller = _afdcd(mask=mask, projector=projector, contrast=contrast, fd_weight=2e-4, ctr_weight=0.3)
    feat, target = _maps()
    actual = run(distiller, feat, target)
    rebuilt = _rebuilt(distiller, feat, distiller.keep((2, 16, 16), 0))
    squares, value = (rebuilt - target).square().sum() / 2, losses.dense_contrast(rebuilt, target, contrast=contrast)
    expected = {'loss_fd': 2e-4 * squares, 'loss_ctr': 0.3 * scale * value}
    torch.testing.assert_close(actual, expected)
    inputs = [feat, *distiller.parameters()]
    grads = [torch.autograd.grad(sum(terms.values()), inputs) for terms in (actual, expected)]
    for grad, naive in zip(*grads, strict=True):
        torch.testing.assert_close(grad, naive, rtol=1e-3, atol=1e-3 * float(naive.abs().max()))


# CanKD, position by position


def cankd_naive(part: torch.nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    """With all scores, H W x N of them, as released."""

    def one(conv: torch.nn.Conv2d, x: Tensor) -> Tensor:
        return torch.einsum('oc,bchw->bohw', conv.weight[:, :, 0, 0], x) + conv.bias[:, None, None]

    key, value = (F.max_pool2d(one(conv, teacher), 2) for conv in (part.phi, part.g))
    read = one(part.out, reference.cankd_read(one(part.theta, student), key, value))
    read = F.batch_norm(read, None, None, part.norm.weight, part.norm.bias, training=True, eps=part.norm.eps)
    return F.mse_loss(F.instance_norm(student + read), F.instance_norm(teacher))


@pytest.mark.parametrize('size', [(4, 6), (5, 3), (2, 2)])
def test_cankd_is_its_formula(size: tuple[int, int]) -> None:
    made = set_up(CanKD, [(4, *size), (6, *size)])
    student, teacher = draw(2, 4, *size).requires_grad_(), draw(2, 6, *size, seed=1)
    first = loss_of(made, student, teacher)
    nothing_read = losses.instance_distance(made.aligns[0](student), teacher)
    torch.testing.assert_close(first, nothing_read)
    first.backward()
    assert made.parts[0].norm.weight.grad.any() and not made.parts[0].theta.weight.grad.any()
    torch.nn.init.constant_(made.parts[0].norm.weight, 0.7)
    actual = loss_of(made, student, teacher)
    expected = cankd_naive(made.parts[0], made.aligns[0](student), teacher)
    torch.testing.assert_close(actual, expected)
    words = [student, *made.parameters()]
    for grad, naive_grad in zip(*(torch.autograd.grad(x, words) for x in (actual, expected)), strict=True):
        torch.testing.assert_close(grad, naive_grad, atol=1e-10, rtol=1e-6)


def test_the_gradients_of_cankd() -> None:
    maps = [draw(2, 3, 4, 3, seed=seed).requires_grad_() for seed in range(3)]
    assert torch.autograd.gradcheck(losses.linear_read, maps)
    assert torch.autograd.gradcheck(lambda x: losses.instance_distance(x, maps[1].detach()), maps[0])
