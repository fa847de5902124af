_base_ = [
    '../_base_/pairs/faster_rcnn_cascade_mask_x101_to_r50_coco.py',
    '../_base_/datasets/coco_detection_masks.py',
    '../_base_/schedules/sgd_2x.py',
    '../_base_/runtime_det.py',
    '../_base_/distillers/maskd_faster_rcnn_cascade_mask_x101.py',
]
model = dict(distillers=_base_.distillers)
