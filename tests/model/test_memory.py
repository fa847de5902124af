"""A distilled step leaves no tensor and no hook behind."""

import gc

import pytest
import torch
from torch import Tensor

from tests import toys
from tests.distillers.maskd.tokens import random_tokens

PCD = dict(type='PCD', queue_size=16, queue_init='empty', head=dict(type='linear'))
MASKD = dict(type='MasKD', num_tokens=4, student_mask_from=0)
SCORES = dict(student_tap='roi_head.bbox_head.fc_cls', output='cls_score', form='softmax')
SEGMENTATION = dict(
    kd=dict(type='LogitKD'),
    afdcd=dict(type='AfDCD', patch_size=(2, 2)),
    maskd=dict(MASKD, student_tap='backbone[3]'),
    pcd=dict(PCD, student_tap='backbone[3]'),
)
DETECTION = dict(
    maskd=dict(MASKD, student_tap='neck'),
    freekd=dict(type='FreeKD'),
    kd=dict(type='HeadOutputKD', student_tap='bbox_head.retina_cls'),
    pcd=dict(PCD, student_tap='neck[:2]'),
)
ROIS = dict(boxes=dict(type='RoIHeadKD'), scores=dict(type='RoIHeadKD', **SCORES))


def _live():
    """The number and the bytes of all tensors that Python can reach."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if isinstance(thing, Tensor)]
    storages = {storage._cdata: storage.nbytes() for storage in (tensor.untyped_storage() for tensor in tensors)}
    return len(tensors), sum(storages.values())


SEGMENTOR = 'mmseg', toys.seg_net, toys.seg_teacher, toys.seg_batch
DETECTOR = 'mmdet', toys.det_net, toys.det_teacher, toys.det_batch
CASES = [(SEGMENTOR, 'fcn', SEGMENTATION), (DETECTOR, 'retinanet', DETECTION), (DETECTOR, 'faster_rcnn', ROIS)]


@pytest.mark.parametrize(('task', 'kind', 'distillers'), CASES)  # no long test: graphs compiled there leave tensors
def test_nothing_stays_alive_after_a_step(task, kind, distillers):
    scope, net, teacher, batch = task
    model = toys.distilled(scope, student=net(kind), teacher=teacher(kind), distillers=distillers)
    for distiller in model.distillers.values():
        if hasattr(distiller, 'load_tokens'):
            distiller.load_tokens(random_tokens(distiller))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    live = []
    for step in range(9):  # the first may prepare something for good
        model.distillation.state.iteration = step % 5
        toys.total(toys.losses_of(model, batch())).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in (3, 8):
            live.append(_live())
    assert live[0] == live[1], 'tensors and bytes after step 3 and after step 8'
    assert toys.hooks_left(model) == toys.hooks_left(toys.teacher_of(model).network) == 0
