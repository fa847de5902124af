"""Detectors of mmdet that none of our pairs has: a step by the methods of maps, and the scores that are refused."""

from typing import Any

import pytest
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope

from mmdistill_dense.registry import MODELS

pytestmark = pytest.mark.soak

NECK = {
    'centernet': 'centernet/centernet_r18_8xb16-crop512-140e_coco.py',
    'centernet update': 'centernet/centernet-update_r50_fpn_8xb8-amp-lsj-200e_coco.py',
    'deformable detr': 'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    'rtmdet ins': 'rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py',
    'solo': 'solo/solo_r50_fpn_1x_coco.py',
    'sparse rcnn': 'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py',
}
QUERIES = 'answers to queries, whose numbers mean nothing'
REFUSED = [
    ('centernet', dict(type='LogitKD', student_tap='bbox_head[0]'), 'gives probabilities .CenterNetHead.'),
    ('centernet', dict(type='FRS'), 'CenterNetHead. are no logits of independent yes/no decisions'),
    ('centernet update', dict(type='LogitKD', student_tap='bbox_head[0]'), 'which do not compete: set'),
    ('deformable detr', dict(type='HeadOutputKD', student_tap='bbox_head[0]'), QUERIES),
    ('deformable detr', dict(type='LogitKD', student_tap='bbox_head[0]'), QUERIES),
    ('rtmdet ins', dict(type='LogitKD', student_tap='bbox_head[0]'), 'which do not compete: set'),
    ('solo', dict(type='LogitKD', student_tap='bbox_head[0]'), 'Modules in SOLO: .*mask_head'),
    ('sparse rcnn', dict(type='LogitKD', student_tap='bbox_head[0]'), 'Modules in SparseRCNN: .*roi_head'),
]


def build(name: str, distillers: dict[str, Any]) -> Any:
    init_default_scope('mmdet')
    network = dict(cfg=f'mmdet::{NECK[name]}', backbone=dict(init_cfg=None))
    teacher = dict(network, checkpoint=None, allow_random=True)
    option = dict(type='mmdistill_dense.DistillModel', student=network, teacher=teacher, distillers=distillers)
    return MODELS.build(ConfigDict(option))


@pytest.mark.parametrize(('name', 'option', 'words'), REFUSED)
def test_scores_that_mean_something_else_are_refused(name: str, option: dict[str, Any], words: str) -> None:
    with pytest.raises((KeyError, ValueError), match=words):
        build(name, dict(method=option))
