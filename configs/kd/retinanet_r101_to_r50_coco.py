_base_ = [
    '../_base_/pairs/retinanet_r101_to_r50_coco.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/retinanet_2x.py',
    '../_base_/runtime_det.py',
    '../_base_/distillers/kd_retinanet.py',
]
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/kd/{{ fileBasenameNoExtension }}'  # the maskd leaf of that name has its own
