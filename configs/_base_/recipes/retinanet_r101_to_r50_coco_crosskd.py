# method: crosskd
_base_ = [
    '../pairs/retinanet_r101_to_r50_coco.py',
    '../datasets/coco_detection.py',
    '../schedules/dense_2x.py',
    '../runtime_det.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
