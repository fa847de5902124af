_base_ = [
    '../pairs/dinov2-vits14_to_retinanet_r18_coco.py',
    '../datasets/coco_detection.py',
    '../schedules/dense_1x.py',
    '../runtime_det.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
