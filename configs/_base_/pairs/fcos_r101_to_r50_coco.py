"""FCOS: ResNet-101 (AP 40.8) teaches ResNet-50 (38.5 alone), both with caffe's input."""

model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmdet::fcos/fcos_r50-caffe_fpn_gn-head_ms-640-800-2x_coco.py'),
    teacher=dict(cfg='mmdet::fcos/fcos_r101-caffe_fpn_gn-head_ms-640-800-2x_coco.py', checkpoint='auto'),
)
