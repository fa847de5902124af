"""GFL: ResNet-101 of 24 epochs at many scales (AP 44.7) teaches ResNet-50 (40.2 alone), a pair of LD."""

model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmdet::gfl/gfl_r50_fpn_1x_coco.py'),
    teacher=dict(cfg='mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py', checkpoint='auto'),
)
