_base_ = [
    '../_base_/pairs/gfl_mobilenetv2_to_r18w16_bccd.py',
    '../_base_/datasets/bccd.py',
    '../_base_/schedules/adamw_6e.py',
    '../_base_/runtime_det.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
