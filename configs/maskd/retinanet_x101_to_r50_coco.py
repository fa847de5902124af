_base_ = [
    '../_base_/pairs/retinanet_x101_to_r50_coco.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/retinanet_2x.py',
    '../_base_/runtime_det.py',
    '../_base_/distillers/maskd_retinanet_x101.py',
]
model = dict(distillers=_base_.distillers)
