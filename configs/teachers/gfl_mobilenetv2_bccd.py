_base_ = [
    '../_base_/models/gfl_mobilenetv2_fpn64.py',
    '../_base_/datasets/bccd.py',
    '../_base_/schedules/adamw_12e.py',
    '../_base_/runtime_det.py',
]
