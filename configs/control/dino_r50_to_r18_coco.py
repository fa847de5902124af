_base_ = [
    '../_base_/pairs/dino_r50_to_r18_coco.py',
    '../_base_/datasets/coco_detr.py',
    '../_base_/schedules/detr_12e.py',
    '../_base_/runtime_det.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
