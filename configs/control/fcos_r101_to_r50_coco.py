_base_ = [
    '../_base_/pairs/fcos_r101_to_r50_coco.py',
    '../_base_/datasets/coco_detection_ms.py',
    '../_base_/schedules/fcos_2x.py',
    '../_base_/runtime_det.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
