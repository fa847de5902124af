_base_ = [
    '../pairs/dino_r50_to_r18_coco.py',
    '../datasets/coco_detr.py',
    '../schedules/detr_12e.py',
    '../runtime_det.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
