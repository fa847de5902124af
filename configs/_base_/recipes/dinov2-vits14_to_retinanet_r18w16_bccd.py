_base_ = [
    '../pairs/dinov2-vits14_to_retinanet_r18w16_bccd.py',
    '../datasets/bccd.py',
    '../schedules/adamw_6e.py',
    '../runtime_det.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
