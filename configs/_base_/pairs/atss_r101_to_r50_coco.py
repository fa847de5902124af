"""ATSS: ResNet-101 (AP 41.5) teaches ResNet-50 (39.4 alone)."""

model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmdet::atss/atss_r50_fpn_1x_coco.py'),
    teacher=dict(cfg='mmdet::atss/atss_r101_fpn_1x_coco.py', checkpoint='auto'),
)
