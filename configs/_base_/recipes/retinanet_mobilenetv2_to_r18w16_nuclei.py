_base_ = [
    '../pairs/retinanet_mobilenetv2_to_r18w16_nuclei.py',
    '../datasets/nuclei_detection.py',
    '../schedules/adamw_6e.py',
    '../runtime_det.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
