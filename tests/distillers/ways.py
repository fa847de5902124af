"""Every method with the ways that it compares, and a step of each on bare maps of pictures of 64 pixels."""

import types
from typing import Any, NamedTuple

import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor

from mmdistill_dense.distillers.base import RunState
from mmdistill_dense.registry import DISTILLERS
from tests.distillers.maskd.tokens import random_tokens

Shape = tuple[int, ...]
SIDE = 8  # of the maps, an eighth of the pictures
CIRKD = dict(pixel_memory=20, region_memory=4, pixel_contrast=30, region_contrast=9, num_classes=3)
AFDCD = dict(groups=2, pool_size=2, patch_size=(2, 2), mask=dict(type='random', ratio=0.2))
PCD = dict(queue_init='random', queue_size=16, monitor_interval=0)
RANDOM_QUEUE = dict(queue_size=16, queue_init='random')
QUEUE = dict(RANDOM_QUEUE, head=None)
FORMS = [dict(form=form) for form in ('smooth_l1', 'l1', 'softmax', 'sigmoid')]
WHOLE = dict(patch_size=SIDE)  # one node of SKD, which has no relations
OPTIONS: dict[str, list[dict[str, Any]]] = {  # a new method must be named too
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
    'HeadOutputKD': FORMS,
    'IFVD': [dict(num_classes=3)],
    'LD': [{}, dict(class_weight=0.0)],
    'LogitKD': [{}, dict(activation='sigmoid'), dict(standardise=True)],
    'MGD': [{}],
    'MasKD': [dict(num_tokens=2, weight_mask=weight) for weight in (True, False)],
    'PCD': [PCD, dict(PCD, head=None, center=True), dict(PCD, enqueue='pixels', num_pixels=3), dict(PCD, vectors=True)],
    'PKD': [{}],
    'QueueKL': [dict(queue_size=16, queue_init='zeros'), QUEUE, dict(QUEUE, own_key=True)],
    'RoIHeadKD': [*FORMS, dict(form='dist')],
    'SKD': [{}, WHOLE],
    'SimReg': [{}, dict(head=None)],
}
EQUAL = {'DIST', 'FRS', 'HeadOutputKD', 'LD', 'LogitKD', 'RoIHeadKD'}  # whose channels mean the same on both sides
EDGES = 'bbox_head[0]', 'bbox_head[1]'


class Way(NamedTuple):
    """A method with options of its own, called 'mine'."""

    name: str
    option: dict[str, Any]

    @property
    def reads_labels(self) -> bool:
        """CIRKD without its memory reads none."""
        return DISTILLERS.get(self.name).needs_labels and self.option.get('region_weight') != 0.0

    def shapes(self, **changes: int) -> list[Shape]:
        """Of both sides; other channels of the student (``c``) or teacher (``d``), or another side of the maps."""
        equal = self.name in EQUAL or self.option.get('head', 0) is None
        if equal and {'c', 'd'} & set(changes):
            changes['c'] = changes['d'] = 1  # of other channels than the teacher's is another refusal
        side = changes.get('side', SIDE)
        return [(2, changes.get('c', 6 if equal else 4), side, side), (2, changes.get('d', 6), side, side)]

    def made(self, *shapes: Shape) -> Any:
        """The distiller, set up for maps of these shapes, by default its own, and with tokens."""
        torch.manual_seed(0)
        taps = {} if self.name == 'LD' else dict(student_tap=['tap', 'tap'] if self.name == 'FRS' else 'tap')
        distiller = DISTILLERS.get(self.name)(**taps, **self.option)
        distiller.name = 'mine'
        distiller.state = RunState(iteration=3, max_iters=10, seed=1)
        axes = 2 if self.name == 'RoIHeadKD' else 4  # scores of one RoI, of one picture
        traced = (torch.Size((1, *shape[1:axes])) for shape in shapes or self.shapes())
        distiller.setup(*({tap: [taps] for tap in (EDGES if self.name == 'LD' else ('tap',))} for taps in traced))
        if hasattr(distiller, 'load_tokens'):
            distiller.load_tokens(random_tokens(distiller))
        return distiller

    def step(self, distiller: Any, student: Tensor, teacher: Tensor, data_samples: Any) -> tuple[Tensor, Tensor]:
        student = student.detach().requires_grad_()
        sides = (self.recorded(distiller, x, data_samples) for x in (student, teacher))
        losses = distiller.step(*sides, data_samples)
        loss = torch.stack([value for key, value in losses.items() if 'loss' in key]).sum()
        (grad,) = torch.autograd.grad(loss, student, allow_unused=True)
        return loss.detach(), torch.zeros_like(student) if grad is None else grad

    def recorded(self, distiller: Any, x: Tensor, data_samples: Any) -> dict[str, list[Tensor]]:
        """What the taps of one side give for a map: for heads, what a head would make of it."""
        if self.name == 'RoIHeadKD':
            rows = x.movedim(1, -1).flatten(0, -2)
            if not x.requires_grad:
                distiller.answer = lambda features, rois: rows
            return {'tap': [rows], distiller.rois: [rows.new_zeros(len(rows), 5)], distiller.features: [x]}
        if self.name == 'LD' and data_samples is not None and all('gt_instances' in one for one in data_samples):
            none = not len(x) or not len(data_samples[0].gt_instances.bboxes)
            cells = torch.arange(x.shape[2] * x.shape[3]).expand(len(x), -1)
            regions = [(cells % 3 == 0) & (not none)], [(cells % 3 == 1) * (0.0 if none else 0.5)]
            distiller.regions = lambda *_: regions
        return dict(zip(EDGES, ([x], [torch.cat([x, -x], 1).repeat(1, 4, 1, 1)]), strict=True), tap=[x])


WAYS = {
    f'{name}{number or ""}': Way(name, option)
    for name, actual in OPTIONS.items()
    for number, option in enumerate(actual)
}


def samples(ignored: bool = False, padded: bool = False) -> list[BaseDataElement]:
    """Two pictures, with label map and boxes, or with ignored labels and no boxes; the second one may be padded."""
    actual = []
    for index in range(2):
        shape = (40, 24) if padded and index else (64, 64)
        sample = BaseDataElement(metainfo=dict(img_shape=shape, batch_input_shape=(64, 64), pad_shape=(64, 64)))
        labels = torch.randint(0, 3, (1, 64, 64), generator=torch.Generator().manual_seed(index))
        sample.gt_sem_seg = BaseDataElement(data=labels.fill_(255) if ignored else labels)
        boxes = torch.tensor([[0.0, 0, 16, 24], [20, 20, 60, 50]])
        sample.gt_instances = InstanceData(bboxes=boxes[:0] if ignored else boxes)
        actual.append(sample)
    return actual


def maps(student: Shape, teacher: Shape) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(5)
    return torch.randn(student, generator=draw), torch.randn(teacher, generator=draw)


# The GFL head of a teacher, which LD asks which anchors are positive

ANCHORS = dict(type='AnchorGenerator', ratios=[1.0], octave_base_scale=4, scales_per_octave=1)
TRAIN = dict(assigner=dict(type='ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1, debug=False)


def head_config(classes: int, reg_max: int, strides: list[int]) -> dict[str, Any]:
    norm = dict(type='GN', num_groups=4)
    sizes = dict(num_classes=classes, reg_max=reg_max, in_channels=8, feat_channels=8, stacked_convs=1)
    return dict(type='GFLHead', **sizes, norm_cfg=norm, anchor_generator=dict(ANCHORS, strides=strides))


def build_head(config: dict[str, Any], **options: Any) -> Any:
    init_default_scope('mmdet')
    return MODELS.build(ConfigDict(dict(config, train_cfg=TRAIN, **options))).eval()


def gfl_teacher(classes: int = 36, reg_max: int = 8, strides: tuple[int, ...] = (8,)) -> types.SimpleNamespace:
    """What a distiller needs of a frozen teacher."""
    head = head_config(classes, reg_max, list(strides))
    built = build_head(head)
    config = types.SimpleNamespace(model=dict(bbox_head=head, train_cfg=TRAIN), scope='mmdet')
    same = dict(option=types.SimpleNamespace(classes=None), class_pairs=lambda: None)
    return types.SimpleNamespace(config=config, module=lambda path: {'bbox_head': built}[path], **same)


def equal(*shape: int) -> dict[str, Any]:
    return dict(student=(2, *shape), teacher=(2, *shape), zero_on_identical=True)


SCORES = 'decode_head.conv_seg'
WIDE = dict(student=(2, 16, 8, 8), teacher=(2, 32, 8, 8), zero_on_identical=True)
LAST = dict(student_tap='backbone[3]')
NECK = dict(detects=True, net='retinanet', student=(2, 6, 8, 8), teacher=(2, 10, 8, 8))
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # the first word is the method
    'AT': ({}, dict(zero_on_identical=True)),
    'AfDCD': (dict(pool_size=0), {}),
    'AfDCD enhanced': (dict(projector='enhanced', patch_size=None, mask=dict(type='centre')), dict(steps=4)),
    'CIRKD': (dict(temperature=0.5, num_classes=7, pixel_memory=20, region_memory=4, pixel_contrast=30),
              dict(net='deeplabv3', doubled_is_equal=False)),  # random pixels
    'CWD': ({}, equal(5, 6, 7)),
    'CanKD': (LAST, {}),
    'DIST': ({}, equal(5, 6, 7)),
    'DeFeat': (dict(student_tap='neck'), NECK),
    'FGD': (dict(student_tap='neck', alpha=0.1, beta=0.2, gamma=0.3, lambda_=0.4), NECK),
    'FRS': ({}, dict(NECK, student=(2, 12, 8, 8), teacher=(2, 12, 8, 8))),
    'FeatureMatch': ({}, {}),
    'FitNet': ({}, {}),
    'FreeKD': (dict(LAST, num_tokens=4), {}),
    'HeadOutputKD': (dict(student_tap=SCORES, beta=0.11), equal(6, 6, 7)),
    'HeadOutputKD by softmax': (dict(student_tap=SCORES, form='softmax', temperature=2.0), equal(6, 6, 7)),
    'IFVD': ({}, WIDE),
    'LD': (dict(main_weight=0.5),  # its sums are over a batch, as published
           dict(equal(36, 8, 8), detects=True, net='gfl', doubled_is_equal=False)),
    'LogitKD': (dict(temperature=2.0), equal(5, 6, 7)),
    'LogitKD standardised': (dict(temperature=2.0, standardise=True), equal(5, 6, 7)),
    'MGD': (dict(LAST, mask_ratio=0.75, alpha=2e-4), {}),
    'MasKD': (dict(LAST, num_tokens=4, student_mask_from=0), {}),
    'MasKD of scores': (dict(student_tap=SCORES, num_tokens=8, weight_mask=False, align='none'), equal(19, 8, 16)),
    'MaskedMimic': ({}, dict(doubled_is_equal=False)),  # the tests' own, with parameters and random masks
    'PCD': (RANDOM_QUEUE, {}),
    'PCD with everything': (dict(RANDOM_QUEUE, head=dict(type='mlp2'), attention={}, center=True, num_pixels=20), {}),
    'PKD': (dict(student_tap=SCORES), equal(7, 8, 8)),
    'QueueKL': (RANDOM_QUEUE, dict(doubled_is_equal=False)),  # its keys enter the queue before the loss
    'SKD': ({}, WIDE),
    'SimReg': (dict(head=dict(type='linear')), {}),
}  # fmt: skip
LEARN = dict(learn=dict(max_iters=2, save_interval=2, log_interval=2))
SEG = {  # every way of each method in a segmentor
    title.replace(' ', '_'): {key: value for key, value in option.items() if key != 'num_classes'}
    | dict(LEARN if 'num_tokens' in option else {}, type=title.split()[0])
    for title, (option, more) in CASES.items()
    if not more.get('detects') and title != 'MaskedMimic'
}
NECK_TAP = {'student_tap': 'neck'}
FINE_TAP = {'student_tap': 'neck[:2]'}
DENSE = {option['type']: option for option in [
    *(dict(type=name) for name in ('DeFeat', 'FGD', 'FRS', 'CanKD')),
    *(dict(NECK_TAP, type=name) for name in ('AT', 'CWD', 'FitNet', 'MGD', 'PKD', 'FeatureMatch')),
    dict(FINE_TAP, type='AfDCD', pool_size=0),
    dict(type='DIST', student_tap='bbox_head.gfl_cls', activation='sigmoid', beta=0.0),
    dict(type='LogitKD', student_tap='bbox_head.gfl_cls', activation='sigmoid'),
    dict(type='LD', class_weight=0.0),
    dict(LEARN, type='FreeKD', num_tokens=2),
    dict(LEARN, type='MasKD', num_tokens=2),
    dict(FINE_TAP, type='PCD', queue_size=8, queue_init='random'),
]}  # fmt: skip
REGIONS = dict(RoIHeadKD=dict(type='RoIHeadKD'), PKD=dict(NECK_TAP, type='PKD'))
