_base_ = [
    '../_base_/models/retinanet_mobilenetv2_fpn64.py',
    '../_base_/datasets/coco_mini.py',
    '../_base_/schedules/adamw_12e.py',
    '../_base_/runtime_det.py',
]
model = dict(bbox_head=dict(num_classes=80))
