_base_ = [
    '../_base_/pairs/deformable_detr_r50_to_r18_coco.py',
    '../_base_/datasets/coco_detr.py',
    '../_base_/schedules/detr_50e.py',
    '../_base_/runtime_det.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
