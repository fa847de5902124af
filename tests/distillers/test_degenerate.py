"""Every registered distiller on degenerate maps, labels and boxes: it teaches, or is refused at construction."""

import math
from typing import Any

import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmdistill_dense.distillers.base import RunState
from mmdistill_dense.distillers.ld import Region
from mmdistill_dense.losses import tensors as precision
from mmdistill_dense.registry import DISTILLERS

Shape = tuple[int, ...]
SIDE = 8  # of the maps, an eighth of the pictures
MAPS = ((2, 4, SIDE, SIDE), (2, 6, SIDE, SIDE))
SCORES = ((2, 6, SIDE, SIDE), (2, 6, SIDE, SIDE))

CIRKD = dict(pixel_memory=20, region_memory=4, pixel_contrast=30, region_contrast=9, num_classes=3)
AFDCD = dict(groups=2, pool_size=2, patch_size=(2, 2), mask=dict(type='random', ratio=0.2))
PCD = dict(queue_init='random', queue_size=16, monitor_interval=0)
# The ways that a method compares, by name: what a new one must name too.
WAYS: dict[str, list[dict[str, Any]]] = {
    'AT': [{}, dict(reduction='sum', power=1.0)],
    'AfDCD': [AFDCD, dict(AFDCD, contrast='spatial'), dict(AFDCD, contrast='channel')],
    'CIRKD': [CIRKD, dict(CIRKD, minibatch_weight=0.0), dict(CIRKD, pixel_weight=0.0, region_weight=0.0)],
    'CWD': [{}],
    'DIST': [{}, dict(activation='sigmoid'), dict(activation='sigmoid', beta=0.0)],
    'DeFeat': [{}],
    'FGD': [{}],
    'FRS': [{}, dict(class_weight=0.0)],
    'FeatureMatch': [{}, dict(standardise='token'), dict(standardise=None, smooth_l1=0.0)],
    'CanKD': [{}],
    'FitNet': [{}],
    'FreeKD': [dict(num_tokens=2), dict(num_tokens=2, bands='all', mse_weight=0.0)],
    'HeadOutputKD': [dict(form=form) for form in ('smooth_l1', 'l1', 'softmax', 'sigmoid')],
    'IFVD': [dict(num_classes=3)],
    'LD': [{}, dict(class_weight=0.0)],
    'LogitKD': [{}, dict(activation='sigmoid'), dict(standardise=True)],
    'MGD': [{}],
    'MasKD': [dict(num_tokens=2, weight_mask=weight) for weight in (True, False)],
    'PCD': [PCD, dict(PCD, head=None), dict(PCD, enqueue='pixels', num_pixels=3)],
    'PKD': [{}],
    'QueryMatch': [{}],
    'QueueKL': [
        dict(queue_size=16, queue_init='zeros'),
        dict(queue_size=16, queue_init='random', head=None),
        dict(queue_size=16, queue_init='random', head=None, own_key=True),
    ],
    'RoIHeadKD': [dict(form=form) for form in ('smooth_l1', 'l1', 'softmax', 'sigmoid', 'dist')],
    'SKD': [{}, dict(patch_size=SIDE)],
    'SimReg': [{}, dict(head=None)],
    'TokenRelations': [{}, dict(diagonal=False, num_pixels=9)],
}
EQUAL = {'DIST', 'FRS', 'HeadOutputKD', 'LD', 'LogitKD', 'RoIHeadKD'}  # whose channels mean the same on both sides
ALL = [
    pytest.param(name, way, id=f'{name}{index or ""}') for name, ways in WAYS.items() for index, way in enumerate(ways)
]


def test_every_registered_method_is_asked() -> None:
    ours = {name for name, kind in DISTILLERS.module_dict.items() if kind.__module__.startswith('mmdistill_dense.')}
    assert ours == set(WAYS) | {'CrossKD', 'KDDETR'}, 'which need a head, see their own tests'


def made(name: str, way: dict[str, Any], student: Shape, teacher: Shape) -> Any:
    """A distiller that is set up for maps of these shapes."""
    torch.manual_seed(0)
    taps = {} if name == 'LD' else dict(student_tap=['tap', 'tap'] if name == 'FRS' else 'tap')
    distiller = DISTILLERS.get(name)(**taps, **way)
    distiller.name = 'mine'
    distiller.state = RunState(iteration=3, max_iters=10, seed=1)
    axes = 2 if name == 'RoIHeadKD' else 4  # scores of one RoI, of one picture
    traced = (torch.Size((1, *shape[1:axes])) for shape in (student, teacher))
    distiller.setup(*({tap: [shape] for tap in _taps(name)} for shape in traced))
    if name in ('MasKD', 'FreeKD'):
        distiller.load_tokens({key: 0.1 * torch.randn(shape) for key, shape in distiller.token_shapes().items()})
    return distiller


def _taps(name: str) -> tuple[str, ...]:
    return ('bbox_head[0]', 'bbox_head[1]') if name == 'LD' else ('tap',)


def samples(ignored: bool = False) -> list[BaseDataElement]:
    """Two pictures, with label map and boxes, or with ignored labels and no boxes."""
    found = []
    for index in range(2):
        sample = BaseDataElement(metainfo=dict(img_shape=(64, 64), pad_shape=(64, 64)))
        labels = torch.randint(0, 3, (1, 64, 64), generator=torch.Generator().manual_seed(index))
        sample.gt_sem_seg = BaseDataElement(data=labels.fill_(255) if ignored else labels)
        boxes = torch.tensor([[0.0, 0, 16, 24], [20, 20, 60, 50]])
        sample.gt_instances = InstanceData(bboxes=boxes[:0] if ignored else boxes)
        found.append(sample)
    return found


def stepped(name: str, distiller: Any, student: Tensor, teacher: Tensor, data_samples: Any) -> tuple[Tensor, Tensor]:
    """The loss of one step, and its gradient at the student's map."""
    student = student.detach().requires_grad_()
    found = distiller.step(*(_recorded(name, distiller, x, data_samples) for x in (student, teacher)), data_samples)
    loss = torch.stack([value for key, value in found.items() if 'loss' in key]).sum()
    (grad,) = torch.autograd.grad(loss, student, allow_unused=True)
    return loss.detach(), torch.zeros_like(student) if grad is None else grad


def _recorded(name: str, distiller: Any, x: Tensor, data_samples: Any) -> dict[str, list[Tensor]]:
    if name == 'RoIHeadKD':  # of the maps, the rows of scores that a head would make
        rows = x.movedim(1, -1).flatten(0, -2)
        if not x.requires_grad:
            distiller.answer = lambda features, rois: rows
        return {'tap': [rows], distiller.rois: [rows.new_zeros(len(rows), 5)], distiller.features: [x]}
    if name == 'LD':
        none = not len(x) or not len(data_samples[0].gt_instances.bboxes)
        every = torch.arange(x.shape[2] * x.shape[3]).expand(len(x), -1)
        region = Region((every % 3 == 0) & (not none), (every % 3 == 1) * (0.0 if none else 0.5))
        distiller.regions = lambda *_: [region]
        edges = torch.cat([x, -x], 1).repeat(1, 4, 1, 1)
        return {'bbox_head[0]': [x], 'bbox_head[1]': [edges]}
    return {'tap': [x]}


def maps(student: Shape, teacher: Shape) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(5)
    return torch.randn(student, generator=draw), torch.randn(teacher, generator=draw)


def shapes_of(name: str, way: dict[str, Any], **changes: int) -> list[Shape]:
    """Of both sides, with the channels of the student (``c``) and teacher (``d``), or the side of the maps, changed."""
    equal = name in EQUAL or way.get('head', 0) is None
    (b, c, side, _), (_, d, _, _) = SCORES if equal else MAPS
    if equal and {'c', 'd'} & set(changes):
        changes['c'] = changes['d'] = 1  # of other channels than the teacher's is another refusal
    side = changes.get('side', side)
    return [(b, changes.get('c', c), side, side), (b, changes.get('d', d), side, side)]


def check_finite(loss: Tensor, grad: Tensor) -> None:
    assert math.isfinite(loss) and grad.isfinite().all()


@pytest.mark.parametrize('change', [dict(), dict(c=1), dict(d=1), dict(c=1, d=1), dict(side=1)], ids=str)
@pytest.mark.parametrize('name, way', ALL)
def test_it_teaches_or_is_refused(name: str, way: dict[str, Any], change: dict[str, int]) -> None:
    """One class, one channel, one position: no training for hours with a constant loss."""
    shapes = shapes_of(name, way, **change)
    try:
        distiller = made(name, way, *shapes)
    except ValueError as error:
        assert change or way == dict(patch_size=SIDE), error
        assert str(error).startswith('distillers.mine') and len(str(error).split()) > 8
        return
    loss, grad = stepped(name, distiller, *maps(*shapes), samples())
    check_finite(loss, grad)
    assert grad.norm() > 1e-9, 'a loss without a gradient'


@pytest.mark.parametrize('name, way', ALL)
def test_flat_maps_huge_ones_and_none(name: str, way: dict[str, Any]) -> None:
    """Finite on constants, zeros, offsets and scales of 1e4, in half precision; no NaN behind a finite loss at 1e18."""
    if way == dict(patch_size=SIDE):
        return
    shapes = shapes_of(name, way)
    student, teacher = maps(*shapes)
    flat = [x.mean((2, 3), keepdim=True).expand_as(x) for x in (student, teacher)]
    zeros = [torch.zeros_like(x) for x in (student, teacher)]
    for s, t in [
        *((flat[0], teacher), (student, flat[1]), flat, (zeros[0], teacher), (student, zeros[1]), zeros),
        *((student + 1e4, teacher), (student, teacher + 1e4), (student * 1e4, teacher), (student, teacher * 1e4)),
        *((x.contiguous(memory_format=torch.channels_last) for x in (student, teacher)), (student.mT, teacher.mT)),
    ]:
        check_finite(*stepped(name, made(name, way, *shapes), s, t, samples()))
    for s, t in ((student * 1e18, teacher), (student, teacher * 1e18), (student * 1e18, teacher * 1e18)):
        loss, grad = stepped(name, made(name, way, *shapes), s, t, samples())
        assert not loss.isfinite() or not grad.isnan().any()
    exact = stepped(name, made(name, way, *shapes), student, teacher, samples())[0]
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast('cpu', dtype):
            loss, grad = stepped(name, made(name, way, *shapes), student.to(dtype), teacher.to(dtype), samples())
        assert loss.dtype == torch.float32 and grad.dtype == dtype
        check_finite(loss, grad)
        torch.testing.assert_close(loss, exact, rtol=0.1, atol=1e-2)


@pytest.mark.parametrize('name, way', ALL)
def test_nothing_annotated_and_no_picture(name: str, way: dict[str, Any]) -> None:
    """All labels ignored and no box: finite. A batch of no picture: finite, or refused in words."""
    if way == dict(patch_size=SIDE):
        return
    shapes = shapes_of(name, way)
    student, teacher = maps(*shapes)
    check_finite(*stepped(name, made(name, way, *shapes), student, teacher, samples(ignored=True)))
    try:
        check_finite(*stepped(name, made(name, way, *shapes), student[:0], teacher[:0], []))
    except ValueError as error:
        assert str(error).startswith('distillers.mine') and 'needs' in str(error)


@pytest.mark.parametrize('side', [5, 3, 1])
@pytest.mark.parametrize('name, way', ALL)
def test_pictures_smaller_than_the_traced_size_stop_no_run(name: str, way: dict[str, Any], side: int) -> None:
    if way == dict(patch_size=SIDE):
        return
    distiller = made(name, way, *shapes_of(name, way))
    check_finite(*stepped(name, distiller, *maps(*shapes_of(name, way, side=side)), samples()))


@pytest.mark.parametrize('name, way', ALL)
def test_rows_of_tokens_are_refused(name: str, way: dict[str, Any]) -> None:
    """(B, N, C): a softmax over dim 1 would be one over the tokens. Plain differences need no axis of classes."""
    if name in ('LD', 'RoIHeadKD') or way.get('form') in ('l1', 'smooth_l1'):
        return
    with pytest.raises(ValueError, match=r'^distillers\.mine: .*64, 6\)'):
        made(name, way, (2, 64, 6), (2, 64, 6))


@pytest.mark.parametrize(('name', 'off', 'left'), [
    ('AfDCD', 'fd_weight', ['loss_ctr']),
    ('AfDCD', 'ctr_weight', ['loss_fd']),
    ('DeFeat', 'foreground_weight', ['loss_background']),
    ('DeFeat', 'background_weight', ['loss_foreground']),
    ('FRS', 'class_weight', ['loss_feature']),
    ('FRS', 'feature_weight', ['loss_class']),
    ('FreeKD', 'mse_weight', ['loss_freekd']),
])  # fmt: skip
def test_a_term_of_weight_0_is_left_out_and_each_parameter_gets_a_gradient(name: str, off: str, left: list) -> None:
    """DDP waits for every one of them."""
    way = {**WAYS[name][0], off: 0.0}
    distiller, (student, teacher) = made(name, way, *shapes_of(name, way)), maps(*shapes_of(name, way))
    found = distiller.step({'tap': [student.requires_grad_()]}, {'tap': [teacher]}, samples())
    assert sorted(key for key in found if key.startswith('loss')) == left
    sum(found[key] for key in left).backward()
    assert all(parameter.grad is not None for parameter in distiller.parameters())


@pytest.mark.parametrize('name, way', [('SKD', {}), ('AfDCD', dict(WAYS['AfDCD'][1], pool_size=2)), ('CIRKD', CIRKD)])
def test_a_coarse_student_is_compared_on_the_finer_grid(name: str, way: dict[str, Any]) -> None:
    """Its own 2 x 2 positions would be pooled to one; the teacher's grid is the one that counts."""
    shapes = (2, 4, 2, 2), (2, 6, SIDE, SIDE)
    distiller = made(name, dict(way, resize='student'), *shapes)
    assert stepped(name, distiller, *maps(*shapes), samples())[1].any()


class _NoFloat64(TorchDispatchMode):
    """Refuses tensors of float64, as Apple's GPUs do."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        assert not any(isinstance(x, Tensor) and x.dtype == torch.float64 for x in tree_leaves(found)), func
        return found


@pytest.mark.parametrize('name, way', ALL)
def test_no_method_needs_float64(name: str, way: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that lacks it; a stand-in for one, as there is none here."""
    monkeypatch.setattr(precision, 'WITHOUT_FLOAT64', {'cpu'})
    student, teacher = shapes_of(name, way, side=2 * SIDE)
    distiller = made(name, way, student, teacher)
    given = maps(student, teacher)
    with _NoFloat64():
        loss, grad = stepped(name, distiller, *given, samples())
    check_finite(loss, grad)
