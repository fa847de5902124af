"""CrossKD, LD, KD-DETR and RoIHeadKD on small heads: their inputs, and a step on some of four pictures."""

from types import SimpleNamespace
from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules

from mmdistill_dense.distillers import KDDETR, LD, CrossKD, RoIHeadKD
from mmdistill_dense.distillers.base import RunState
from tests.distillers.steps import boxed, draw
from tests.distillers.ways import gfl_teacher

KINDS = {'gfl': 'GFLHead', 'retinanet': 'RetinaHead', 'atss': 'ATSSHead', 'fcos': 'FCOSHead'}
STRIDES, CLASSES, CHANNELS = (16, 32), 3, 4
TRAIN = dict(
    assigner=dict(type='ATSSAssigner', topk=9), sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1
)
TAPS = 'bbox_head.cls_convs.0', 'bbox_head.reg_convs.0'


def head_of(kind: str) -> Any:
    """A head of two convolutions in float64 whose predictions say something."""
    register_all_modules(init_default_scope=False)
    option = dict(type=KINDS[kind], num_classes=CLASSES, in_channels=CHANNELS, feat_channels=CHANNELS, stacked_convs=2)
    option.update(norm_cfg=dict(type='GN', num_groups=2), _scope_='mmdet')
    if kind == 'fcos':
        option.update(strides=STRIDES, regress_ranges=((-1, 40), (40, 1e8)), norm_on_bbox=True)
    else:
        scales = dict(scales=[4], ratios=[0.5, 1.0] if kind == 'retinanet' else [1.0])
        overlaps = dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.3, min_pos_iou=0)
        option.update(anchor_generator=dict(type='AnchorGenerator', strides=STRIDES, **scales), train_cfg=dict(TRAIN))
        option['train_cfg'].update(dict(assigner=overlaps) if kind == 'retinanet' else {})
        loss = 'QualityFocalLoss' if kind == 'gfl' else 'FocalLoss'
        option.update(loss_cls=dict(type=loss, use_sigmoid=True), **dict(reg_max=4) if kind == 'gfl' else {})
    head = MODELS.build(option).double().eval()
    generator = torch.Generator().manual_seed(3)
    for name, parameter in head.named_parameters():
        parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator) + ('scale' in name))
    return head.requires_grad_(False)


def distiller_of(kind: str, **options: Any) -> CrossKD:
    made, head = CrossKD(reuse_from=1, **options), head_of(kind)
    made.teacher = SimpleNamespace(module=lambda path: head, option=SimpleNamespace(classes=None))
    made.state = RunState(seed=1)
    return made


def samples(count: int = 2, dtype: torch.dtype = torch.float64) -> list[Any]:
    actual = boxed(count)
    for sample in actual:
        sample.gt_instances.labels %= CLASSES
        sample.gt_instances.bboxes = sample.gt_instances.bboxes.to(dtype)
    return actual


def maps(count: int = 2, seed: int = 0) -> list[list[torch.Tensor]]:
    return [
        [draw(count, CHANNELS, 64 // one, 64 // one, seed=seed + 7 * t + i).relu() for i, one in enumerate(STRIDES)]
        for t in range(2)
    ]


def crosskd_step(kind: str, pictures: slice) -> dict[str, Any]:
    """Losses of some of four pictures, and the gradient of their sum; one channel is constant in the first process."""
    made, data = distiller_of(kind), samples(4, torch.float32)[pictures]
    made.teacher.module('').float()
    student, teacher = maps(4)[0], maps(4, seed=40)[0]
    student[1][:3, 0] = 0.25
    leaves = [[x[pictures].float().requires_grad_() for x in student] for _ in TAPS]
    teacher_maps = [[x[pictures].float() for x in teacher] for _ in TAPS]
    outputs = made.predict(made.teacher.module(''), teacher_maps)
    if kind == 'fcos':
        outputs[1] = [x / stride for x, stride in zip(outputs[1], STRIDES, strict=True)]
    recorded = dict(zip(TAPS, teacher_maps, strict=True)) | {'bbox_head': [x for output in outputs for x in output]}
    actual = made(dict(zip(TAPS, leaves, strict=True)), recorded, data)
    torch.stack(list(actual.values())).sum().backward()
    grads = [x.grad for tower in leaves for x in tower]
    return dict(losses={name: value.detach() for name, value in actual.items()}, grads=grads)


LD_SCORES, LD_EDGES = 'bbox_head[0]', 'bbox_head[1]'
LD_STRIDES = (8, 16, 32)


def ld_maps(count: int = 2) -> tuple[dict, dict, list[Any]]:
    """Maps of both sides, of 6 classes and of edges of 7 values, and samples."""
    sides = []
    for scale in (1.0, 3.0):
        sides.append({
            tap: [scale * draw(count, channels, 64 // n, 64 // n, seed=int(n * scale) + channels) for n in LD_STRIDES]
            for tap, channels in ((LD_SCORES, 6), (LD_EDGES, 28))
        })  # fmt: skip
    return *sides, boxed(count)


def ld_distiller(**options: Any) -> LD:
    distiller = LD(**options)
    distiller.teacher = gfl_teacher(6, 6, LD_STRIDES)
    return distiller


def ld_step(reduction: str, pictures: slice) -> dict[str, Any]:
    """Losses of some of the pictures, and the gradient of their sum."""
    student, teacher, samples = ld_maps(4)
    student, teacher = ({tap: [x[pictures] for x in maps] for tap, maps in side.items()} for side in (student, teacher))
    leaves = [x.requires_grad_() for levels in student.values() for x in levels]
    distiller = ld_distiller(reduction=reduction)
    distiller.state = RunState(seed=1)
    actual = distiller(student, teacher, samples[pictures])
    torch.stack(list(actual.values())).sum().backward()
    return dict(losses={k: v.detach() for k, v in actual.items()}, grads=[x.grad for x in leaves])


def query_answers(pictures=2, layers=3, queries=4):
    student_answers, other = draw(layers, pictures, queries, 9), draw(pictures, queries, 9, seed=1)
    return [part for x in (student_answers, other) for part in (x[..., :5], x[..., 5:].sigmoid())]


def kddetr_step(pictures):
    """The terms of some of four pictures, and the gradients of the student's answers."""
    scores, boxes, *teacher = query_answers(pictures=4)
    student_answers = [x[:, pictures].clone().requires_grad_() for x in (scores, boxes)]
    terms = KDDETR(reduction='mean').terms(student_answers, [x[pictures][None] for x in teacher])
    return dict(losses=dict(enumerate(terms.detach())), grads=torch.autograd.grad(terms.sum(), student_answers))


FORMS = {'bbox_pred': ('smooth_l1', (8,)), 'cls_score': ('softmax', (3,)), 'mask_preds': ('sigmoid', (2, 4, 4))}


def roi_step(output, counts, pictures):
    """The loss of some of four pictures with ``counts`` of RoIs, and its gradient; see test_two_processes.py."""
    form, shape = FORMS[output]
    generator = torch.Generator().manual_seed(5)
    picture = torch.arange(4.0).repeat_interleave(torch.tensor(counts))
    chosen = sum(picture == number for number in range(4)[pictures]).bool()
    student, teacher = (torch.randn(len(picture), *shape, generator=generator)[chosen] for _ in range(2))
    distiller = RoIHeadKD(output=output, form=form)
    distiller.answer = lambda *_: teacher
    loss = distiller._term(student.requires_grad_(), picture[chosen, None].expand(-1, 5), [])
    return dict(losses={'loss_roi': loss.detach()}, grads=torch.autograd.grad(loss, student))
