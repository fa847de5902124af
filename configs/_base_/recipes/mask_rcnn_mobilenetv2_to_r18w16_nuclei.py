_base_ = [
    '../pairs/mask_rcnn_mobilenetv2_to_r18w16_nuclei.py',
    '../datasets/nuclei.py',
    '../schedules/adamw_6e.py',
    '../runtime_det.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
