# method: maskd
_base_ = [
    '../pairs/deformable_detr_r50_to_r18_coco.py',
    '../datasets/coco_detr.py',
    '../schedules/detr_50e.py',
    '../runtime_det.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
