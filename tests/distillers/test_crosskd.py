"""CrossKD: its formula by hand, mmdet's targets, real detectors of four heads, and what it refuses."""

import math
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules

from mmdistill_dense.distillers.crosskd import FORMS, TOWERS, Targets, form_of
from mmdistill_dense.losses import aligned_scale, channel_moments
from tests import toys
from tests.distillers.steps import draw, overlaps, trained_children
from tests.distillers.steps_on_heads import CHANNELS, CLASSES, KINDS, STRIDES, distiller_of, head_of, maps, samples

TWO = dict(bbox_head=dict(stacked_convs=2))
CROSS = dict(type='CrossKD', reuse_from=1)


def predicted(head: Any, kind: str, towers: list[list[torch.Tensor]]) -> list[list[torch.Tensor]]:
    """The head's last convolution and its predictors, written out."""
    form, actual = FORMS[KINDS[kind]], []
    for level, (x, y) in enumerate(zip(*towers, strict=True)):
        x, y = head.cls_convs[1](x.clone()), head.reg_convs[1](y.clone())
        boxes = getattr(head, form.boxes)(y)
        boxes = boxes if kind == 'retinanet' else boxes * head.scales[level].scale
        boxes = boxes.clamp(min=0) * STRIDES[level] if kind == 'fcos' else boxes
        actual.append([getattr(head, form.scores)(x), boxes, *([head.atss_centerness(y)] if kind == 'atss' else [])])
    return [list(level) for level in zip(*actual, strict=True)]


def naive_align(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    actual = torch.empty_like(student)
    for c in range(student.shape[1]):
        s, t = student[:, c], teacher[:, c]
        actual[:, c] = (s - s.mean()) / (s.std() + 1e-6) * t.std() + t.mean()
    return actual.clamp(min=0)


def box_distance(kind: str, head: Any, s: torch.Tensor, t: torch.Tensor, prior: torch.Tensor) -> float:
    if kind == 'gfl':
        p, q = (x.view(4, -1).softmax(1) for x in (t, s))
        return float((p * (p / q).log()).sum() / 4)
    a, b = (head.bbox_coder.decode(prior[None], x[None])[0].tolist() for x in (s, t))
    inner, union, hull = overlaps(a, b)
    if kind == 'fcos':
        return -math.log(max(inner / max(union, 1e-6), 1e-6))
    return 1 - inner / union + (hull - union) / hull


@pytest.mark.parametrize('kind', KINDS)
def test_the_naive_formula(kind: str) -> None:
    """Loops over pictures, cells and anchors, with ignored anchors and drawn positives."""
    made = distiller_of(kind, class_weight=0.7, box_weight=1.3, centre_weight=0.4, beta=1.5)
    head, (student, teacher) = made.teacher.module(''), zip(maps(), maps(seed=40), strict=True)
    crossed = made.predict(head, [made.aligned(*pair) for pair in zip(student, teacher, strict=True)])
    own = predicted(head, kind, teacher)
    expected = predicted(head, kind, [list(map(naive_align, *pair)) for pair in zip(student, teacher, strict=True)])
    torch.testing.assert_close(crossed, expected)
    torch.testing.assert_close(made.predict(head, teacher), own)
    anchors = 2 if kind == 'retinanet' else 1
    sizes = [x.shape[2:] for x in student[0]]
    priors = head.prior_generator.grid_priors(sizes, dtype=torch.float64, device='cpu')
    weights = [(draw(2, h * w * anchors, seed=5) > -1).double() for h, w in sizes]
    positives = [(draw(2, h * w * anchors, seed=6) > 0).double() for h, w in sizes]
    targets = Targets(priors, None if kind == 'fcos' else weights, positives, torch.tensor(2.5, dtype=torch.float64))
    found = made.compare(head, crossed, own, targets)
    terms = torch.zeros(3, 2, dtype=torch.float64)
    mass = 0.0
    for level, (height, width) in enumerate(sizes):
        for b in range(2):
            for place in range(height * width * anchors):
                cell, a = divmod(place, anchors)
                y, x = divmod(cell, width)
                rows = [[side[i][level][b, :, y, x].view(anchors, -1)[a] for i in range(2)] for side in (crossed, own)]
                m = 1.0 if kind == 'fcos' else float(weights[level][b, place])
                for z, t in zip(rows[0][0].tolist(), rows[1][0].sigmoid().tolist(), strict=True):
                    p = 1 / (1 + math.exp(-z))
                    terms[0, level] -= m * (t * math.log(p) + (1 - t) * math.log(1 - p)) * abs(p - t) ** 1.5
                w = m * float(rows[1][0].sigmoid().max())
                mass += w
                prior = priors[level][place if kind != 'fcos' else cell]
                terms[1, level] += w * box_distance(kind, head, rows[0][1], rows[1][1], prior)
                if kind == 'atss' and positives[level][b, place]:
                    c, t = (side[2][level][b, a, y, x].sigmoid() for side in (crossed, own))
                    terms[2, level] -= t * c.log() + (1 - t) * (1 - c).log()
    names = ['loss_cls', 'loss_box', *(['loss_centre'] if kind == 'atss' else [])]
    assert list(found) == names
    for name, value in zip(names, terms, strict=False):
        expected = value / (mass if (kind, name) == ('gfl', 'loss_box') else 2.5)
        torch.testing.assert_close(found[name], expected, rtol=1e-7, atol=1e-10)
    broken = [[x * math.nan for x in tower] for tower in student], teacher
    for own, other in (broken, (student, broken[0])):  # shows in every term
        crossed = made.predict(head, [made.aligned(*pair) for pair in zip(own, other, strict=True)])
        found = made.compare(head, crossed, made.predict(head, other), targets)
        assert not any(value.isfinite().all() for value in found.values())


def test_the_gradients() -> None:
    student, teacher_moments = draw(2, 3, 2, 3).requires_grad_(), channel_moments(draw(2, 3, 2, 3, seed=1))[None]
    assert torch.autograd.gradcheck(lambda x: aligned_scale(x, channel_moments(x)[None], teacher_moments), student)
    made, head, teacher_maps = distiller_of('gfl'), head_of('gfl'), maps(1, seed=40)[0]
    student_maps, taught = maps(1)[0], made.predict(head, [teacher_maps, teacher_maps])

    def whole(*small: torch.Tensor) -> torch.Tensor:
        crossed = made.predict(head, [made.aligned([student_maps[0], x], teacher_maps) for x in small])
        actual = made.compare(head, crossed, taught, Targets([None, None], total=torch.tensor(3.0)))
        return torch.stack(list(actual.values())).sum()

    assert torch.autograd.gradcheck(whole, [draw(1, CHANNELS, 2, 2, seed=n).abs().requires_grad_() for n in (8, 9)])


@pytest.mark.parametrize('shape', [(2, 3, 4, 4), (1, 3, 1, 1)])
def test_channels_without_deviation_get_no_gradient(shape: tuple[int, ...]) -> None:
    student, teacher = torch.full(shape, 0.3), draw(*shape, seed=1).float()
    student[:, 0] = draw(*shape, seed=2).float()[:, 0]
    student.requires_grad_()
    actual = aligned_scale(student, channel_moments(student)[None], channel_moments(teacher)[None])
    torch.testing.assert_close(actual[:, 1:], teacher.mean((0, 2, 3))[None, 1:, None, None].expand_as(actual[:, 1:]))
    (grad,) = torch.autograd.grad((actual * draw(*shape, seed=3)).sum(), student)
    assert grad.isfinite().all() and not grad[:, 1:].any() and grad[:, 0].any() == (student[0, 0].numel() > 1)


@pytest.mark.parametrize('kind', KINDS)
def test_targets_are_those_of_the_head(kind: str) -> None:
    made, scores = distiller_of(kind), [torch.zeros(2, CLASSES, 64 // stride, 64 // stride) for stride in STRIDES]
    head, data = made.teacher.module('').float(), samples(dtype=torch.float32)
    actual = made.targets(head, scores, data)
    truth, metas = [sample.gt_instances for sample in data], [sample.metainfo for sample in data]
    if kind == 'fcos':
        labels, edges = (torch.cat(target) for target in head.get_targets(actual.priors, truth))
        expected = head.centerness_target(edges[labels < CLASSES]).sum()
        torch.testing.assert_close(actual.total, expected.clamp(min=1))
        assert actual.weights is None and expected > 1
        return
    anchors, flags = head.get_anchors([x.shape[2:] for x in scores], metas, device='cpu')
    *_, labels, weights, _, _, positives = head.get_targets(anchors, flags, truth, metas)
    assert float(actual.total) == positives > 2
    assert all(map(torch.equal, actual.weights, weights))
    assert all(torch.equal(positive, two < CLASSES) for positive, two in zip(actual.positives, labels, strict=True))


def network(kind: str | dict, teacher: dict | None = None, **option: Any) -> Any:
    net = toys.det_net(kind, **TWO) if isinstance(kind, str) else kind
    teacher = teacher or toys.det_net(kind, 16, channels=16, allow_random=True, **TWO)
    option = option if 'type' in option else CROSS | option
    return toys.distilled('mmdet', student=net, teacher=teacher, distillers=dict(x=option))


def own_losses(model: Any) -> dict[str, torch.Tensor]:
    actual = toys.losses_of(model, toys.det_batch())
    return {name[10:]: value for name, value in actual.items() if name.startswith('distill.x.loss')}


@pytest.mark.parametrize(('kind', 'reuse_from'), [
    *(('gfl', layers) for layers in (0, 2)),
    *(pytest.param(kind, 1, marks=pytest.mark.soak) for kind in [*KINDS][1:]),
])  # fmt: skip
def test_a_step_of_a_real_detector_trains_it_up_to_the_held_maps(kind: str, reuse_from: int) -> None:
    model = network(kind, reuse_from=reuse_from)
    losses = own_losses(model)
    toys.total(losses).backward()
    assert set(losses) == {'loss_cls', 'loss_box', *(['loss_centre'] if kind == 'atss' else [])}
    assert trained_children(model) == {'backbone', 'neck', *(['bbox_head'] if reuse_from else [])}
    trained = {name for name, p in model.bbox_head.named_parameters() if p.grad is not None and p.grad.any()}
    reused = {f'{tower}.{number}' for tower in TOWERS for number in range(reuse_from)}
    assert {name.rsplit('.', 2)[0] for name in trained} == reused, 'the first convolutions of each tower'
    assert all(p.grad is None for p in toys.teacher_of(model).network.parameters())


def test_by_scores_no_boxes_are_read() -> None:
    assert not network('fcos', normalise='scores').distillers['x'].needs_labels


def test_targets_of_another_assigner_are_not_taken() -> None:
    other = toys.det_net('gfl', 16, channels=16, allow_random=True, train_cfg=dict(assigner=dict(topk=5)), **TWO)
    assert not network('gfl', other, type='LD').distillers['x'].noted_methods


def test_losses_are_float32_under_autocast() -> None:
    model = network('atss')
    with torch.autocast('cpu', torch.bfloat16):
        half = own_losses(model)
    full = own_losses(model)
    for name, value in half.items():
        assert value.dtype == torch.float32 and float(value) == pytest.approx(float(full[name]), rel=0.2), name
    toys.total(half).backward()


def test_a_subclass_that_predicts_in_the_same_way_is_known() -> None:
    register_all_modules(init_default_scope=False)
    assert form_of(MODELS.get('LDHead')) is FORMS['GFLHead'] and form_of(MODELS.get('PAAHead')) is None
    assert form_of(None) is None
