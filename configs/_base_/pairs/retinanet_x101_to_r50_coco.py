"""RetinaNet: ResNeXt-101 64x4d (AP 41.6; MasKD's README says 41.0) teaches ResNet-50."""

_base_ = './retinanet_r101_to_r50_coco.py'
model = dict(teacher=dict(cfg='mmdet::retinanet/retinanet_x101-64x4d_fpn_ms-640-800-3x_coco.py'))
