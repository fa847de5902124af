"""FCOS: ResNet-101 (AP 40.8) teaches ResNet-50, both with caffe's input, the student of FGD and MasKD.

It samples at the objects' centres, has edges in strides and learns them by GIoU. The authors' has biases before its
norms too (`conv_bias`), which the teacher's head has not; without them the head can be inherited as it is.
"""

model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(
        cfg='mmdet::fcos/fcos_r50-caffe_fpn_gn-head_ms-640-800-2x_coco.py',
        bbox_head=dict(norm_on_bbox=True, center_sampling=True, loss_bbox=dict(type='GIoULoss')),
        test_cfg=dict(nms=dict(iou_threshold=0.6)),
    ),
    teacher=dict(cfg='mmdet::fcos/fcos_r101-caffe_fpn_gn-head_ms-640-800-2x_coco.py', checkpoint='auto'),
)
