"""RetinaNet: ResNeXt-101 64x4d of 12 epochs (AP 41.0) teaches ResNet-50, the pair of CWD, DIST, FGD and PKD."""

# pair: retinanet_x101_1x_to_r50_coco
_base_ = [
    '../pairs/retinanet_r101_to_r50_coco.py',
    '../datasets/coco_detection.py',
    '../schedules/dense_2x.py',
    '../runtime_det.py',
]
model = dict(teacher=dict(cfg='mmdet::retinanet/retinanet_x101-64x4d_fpn_1x_coco.py'))
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
