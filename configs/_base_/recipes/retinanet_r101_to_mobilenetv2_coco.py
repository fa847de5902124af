_base_ = [
    '../pairs/retinanet_r101_to_mobilenetv2_coco.py',
    '../datasets/coco_detection.py',
    '../schedules/retinanet_2x.py',
    '../runtime_det.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
