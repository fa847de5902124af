_base_ = [
    '../_base_/pairs/reppoints_x101_to_r50_coco.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/dense_2x.py',
    '../_base_/runtime_det.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
