"""Mask R-CNN: ResNet-101 (box AP 40.8, mask AP 36.6) teaches ResNet-50 (39.2 and 35.4 alone)."""

model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmdet::mask_rcnn/mask-rcnn_r50_fpn_2x_coco.py'),
    teacher=dict(cfg='mmdet::mask_rcnn/mask-rcnn_r101_fpn_2x_coco.py', checkpoint='auto'),
)
