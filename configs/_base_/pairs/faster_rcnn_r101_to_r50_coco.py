"""Faster R-CNN: ResNet-101 (AP 39.8) teaches ResNet-50 (38.4 alone)."""

model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmdet::faster_rcnn/faster-rcnn_r50_fpn_2x_coco.py'),
    teacher=dict(cfg='mmdet::faster_rcnn/faster-rcnn_r101_fpn_2x_coco.py', checkpoint='auto'),
)
