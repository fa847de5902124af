"""RetinaNet: ResNeXt-101 64x4d of 12 epochs (AP 41.0) teaches ResNet-50, the pair of CWD, DIST, FGD and PKD."""

_base_ = './retinanet_r101_to_r50_coco.py'
model = dict(teacher=dict(cfg='mmdet::retinanet/retinanet_x101-64x4d_fpn_1x_coco.py'))
