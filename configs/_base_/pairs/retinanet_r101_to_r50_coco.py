"""RetinaNet: ResNet-101 (AP 38.9) teaches ResNet-50 (37.4 alone)."""

model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmdet::retinanet/retinanet_r50_fpn_2x_coco.py'),
    teacher=dict(cfg='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py', checkpoint='auto'),
)
