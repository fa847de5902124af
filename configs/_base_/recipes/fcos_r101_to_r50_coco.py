_base_ = [
    '../pairs/fcos_r101_to_r50_coco.py',
    '../datasets/coco_detection_ms.py',
    '../schedules/fcos_2x.py',
    '../runtime_det.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
