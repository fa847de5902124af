_base_ = [
    '../_base_/models/retinanet_vit_fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/frozen_head_3x.py',
    '../_base_/runtime_det.py',
]
