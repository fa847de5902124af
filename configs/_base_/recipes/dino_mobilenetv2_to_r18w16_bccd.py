_base_ = [
    '../pairs/dino_mobilenetv2_to_r18w16_bccd.py',
    '../datasets/bccd.py',
    '../schedules/detr_adamw_24e.py',
    '../runtime_det.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
