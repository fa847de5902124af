_base_ = [
    '../pairs/retinanet_mobilenetv2_to_r18w16_bccd.py',
    '../datasets/bccd.py',
    '../schedules/adamw_6e.py',
    '../runtime_det.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
