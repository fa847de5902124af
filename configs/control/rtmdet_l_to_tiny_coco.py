_base_ = [
    '../_base_/pairs/rtmdet_l_to_tiny_coco.py',
    '../_base_/datasets/coco_rtmdet.py',
    '../_base_/schedules/rtmdet_300e.py',
    '../_base_/runtime_det.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
