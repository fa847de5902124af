_base_ = [
    '../_base_/pairs/reppoints_x101_to_r50_coco.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/reppoints_2x.py',
    '../_base_/runtime_det.py',
    '../_base_/distillers/maskd_reppoints_x101.py',
]
model = dict(distillers=_base_.distillers)
