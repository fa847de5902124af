"""FCOS: ResNet-101 (AP 40.8) teaches ResNet-50, both with caffe's input, the student of FGD and MasKD.

It samples at the objects' centres, has edges in strides, learns them by GIoU, and has biases before its norms. The
teacher's head has none there: a student that inherits it begins with 0.
"""

model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(
        cfg='mmdet::fcos/fcos_r50-caffe_fpn_gn-head_ms-640-800-2x_coco.py',
        bbox_head=dict(norm_on_bbox=True, center_sampling=True, conv_bias=True, loss_bbox=dict(type='GIoULoss')),
        test_cfg=dict(nms=dict(iou_threshold=0.6)),
    ),
    teacher=dict(cfg='mmdet::fcos/fcos_r101-caffe_fpn_gn-head_ms-640-800-2x_coco.py', checkpoint='auto'),
)
