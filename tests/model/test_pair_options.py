"""Every method with every option of its pair that promises the same teaching: the same losses, or a refusal by key."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from mmcv.ops import ModulatedDeformConv2dPack, RoIAlign
from torch import nn

from mmdistill_dense.datasets.shapes import CLASSES
from mmdistill_dense.guards.config import check_teacher_classes
from mmdistill_dense.networks.acceleration import Acceleration
from mmdistill_dense.registry import DISTILLERS
from tests import toys
from tests.distillers.maskd.tokens import random_tokens
from tests.distillers.ways import NECK_TAP, SEG
from tests.query_nets import query_net


class Form(NamedTuple):
    """A method on networks of the zoo."""

    network: str
    options: dict[str, Any] = {}


FORMS = {
    **{title: Form('fcn', option) for title, option in SEG.items() if title == option['type']},
    'CrossKD': Form('gfl', dict(reuse_from=0)),
    'DeFeat': Form('retinanet', NECK_TAP),
    'FGD': Form('retinanet', NECK_TAP),
    'FRS': Form('retinanet'),
    'KDDETR': Form('conditional', dict(general=5)),
    'LD': Form('gfl'),
    'RoIHeadKD': Form('faster_rcnn'),
    'RoIHeadKD boxes': Form('faster_rcnn', dict(output='bbox_pred')),
    'RoIHeadKD masks': Form('mask_rcnn', dict(student_tap='roi_head.mask_head', output='mask_preds', form='sigmoid')),
}  # fmt: skip


def two_teachers(teacher: dict[str, Any], distiller: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The teacher second of two; the first has other weights, and teaches nothing of this method."""
    other = dict(teacher, checkpoint=None, allow_random=True)
    return dict(other=other, right=teacher), dict(distiller, teacher='right')


def padded(teacher: dict[str, Any], distiller: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The teacher's pictures padded to multiples of 32, which they are."""
    divisor = {} if 'mmdet' in teacher['cfg'] else dict(data_preprocessor=dict(size_divisor=32))
    return dict(teacher, fit='pad', **divisor), distiller


@cache
def teacher_of_reversed_classes() -> str:
    """The file of the same segmentor, trained with its classes in the opposite order."""
    content = torch.load(toys.teacher_file('fcn'))
    rows = [name for name in content['state_dict'] if '.conv_seg.' in name]
    content['state_dict'] |= {name: content['state_dict'][name].flip(0) for name in rows}
    content['meta'] = dict(dataset_meta=dict(classes=CLASSES[::-1]))
    torch.save(content, file := toys.fresh_dir() / 'reversed.pth')
    return str(file)


def other_order(teacher: dict[str, Any], distiller: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same teacher with its classes in the opposite order; only a segmentor here."""
    file = teacher_of_reversed_classes() if 'mmseg' in teacher['cfg'] else teacher.get('checkpoint')
    return dict(teacher, checkpoint=file, classes='auto' if 'mmseg' in teacher['cfg'] else None), distiller


def with_teacher(**changes: Any) -> Callable[..., tuple[dict[str, Any], dict[str, Any]]]:
    return lambda teacher, distiller: (dict(teacher, **changes), distiller)


# How an option changes teacher and distiller, and how far the losses may be from those without it.
OPTIONS: dict[str, tuple[Callable[..., Any], float]] = {
    'channels_last': (with_teacher(accelerate=dict(channels_last=True)), 1e-4),
    'dtype': (with_teacher(accelerate=dict(dtype='bfloat16')), 0.03),
    'scale': (with_teacher(scale=1), 0.0),
    'fit': (padded, 1e-6),
    'several': (two_teachers, 0.0),
    'classes': (other_order, 1e-5),
    'AMP': (lambda teacher, distiller: (teacher, distiller), 0.05),
}


def networks(name: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    if name == 'conditional':
        return query_net(name), query_net(name, width=16, allow_random=True), 'mmdet'
    if name == 'fcn':
        return toys.seg_net(name), toys.seg_teacher(name), 'mmseg'
    return toys.det_net(name, channels=16), toys.det_teacher(name, channels=16), 'mmdet'


def losses(form: str, change: Callable[..., Any], amp: bool = False) -> Mapping[str, float]:
    """The distillation losses of a first step by name, without the distiller's own name."""
    method, (name, options) = form.split()[0], FORMS[form]
    student, teacher, scope = networks(name)
    teacher, distiller = change(teacher, dict(options, type=method))
    config = toys.model_config(student, teacher, dict(kd=distiller))
    model = toys.ready(toys.build(config, scope=scope))
    for frozen in model.distillation.teachers.values():
        check_teacher_classes(CLASSES if scope == 'mmseg' else None, frozen, model.distillers.values())
    if hasattr(model.distillers.kd, 'load_tokens'):
        model.distillers.kd.load_tokens(random_tokens(model.distillers.kd))
    batch = toys.seg_batch() if scope == 'mmseg' else toys.det_batch(masks=name == 'mask_rcnn')
    torch.manual_seed(1)
    with torch.autocast('cpu', torch.bfloat16) if amp else nullcontext():
        terms = model(**model.data_preprocessor(batch, True), mode='loss')
    return {key: float(sum(x.sum() for x in ([term] if torch.is_tensor(term) else term)))
            for key, term in terms.items() if key.startswith('distill.kd.loss')}  # fmt: skip


def test_every_registered_method_has_a_form() -> None:
    names = {name for name, kind in DISTILLERS.module_dict.items() if kind.__module__.startswith('mmdistill_dense.')}
    assert names == {form.split()[0] for form in FORMS}


QUICK = ('RoIHeadKD',)


@pytest.mark.parametrize('form', [pytest.param(x, marks=[] if x in QUICK else pytest.mark.soak) for x in FORMS])
def test_options_of_the_pair_leave_a_methods_losses(form: str) -> None:
    plain = losses(form, with_teacher())
    assert plain and any(plain.values())
    for option, (change, tolerance) in OPTIONS.items():
        if option == 'AMP' and form.startswith('RoIHeadKD'):
            continue  # mmcv's RoIAlign takes no bfloat16 on a CPU, with and without a teacher
        try:
            changed = losses(form, change, amp=option == 'AMP')
        except ValueError as error:
            assert option.split()[0] in str(error) or 'accelerate' in str(error), error
            continue
        assert changed == pytest.approx(plain, rel=tolerance, abs=tolerance * 1e-2), option


@pytest.mark.parametrize('kind', [RoIAlign, ModulatedDeformConv2dPack], ids=lambda kind: kind.__name__)
def test_compiled_operations_read_maps_of_channels_last(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    operation = RoIAlign(7) if kind is RoIAlign else ModulatedDeformConv2dPack(8, 8, 3, padding=1)
    rest = (torch.tensor([[0, 1.0, 1, 9, 9], [1, 2, 0, 12, 10]]),) if kind is RoIAlign else ()
    maps = torch.rand(2, 8, 13, 17)
    network = nn.ModuleDict(dict(operation=operation)).eval()
    right = operation(maps, *rest)
    Acceleration(channels_last=True).prepare(network)  # type: ignore[arg-type]
    torch.testing.assert_close(operation(maps.contiguous(memory_format=torch.channels_last), *rest), right)
