"""FoveaBox on a ResNet-18 of a quarter of the width, from random weights."""

_base_ = [
    '../../configs/_base_/models/retinanet_r18w16_fpn64.py',
    '../../configs/_base_/datasets/nuclei_detection.py',
    '../../configs/_base_/schedules/adamw_12e.py',
    '../../configs/_base_/runtime_det.py',
]
model = dict(
    type='FOVEA',
    bbox_head=dict(
        _delete_=True,
        type='FoveaHead',
        num_classes=1,
        in_channels=64,
        stacked_convs=2,
        feat_channels=64,
        strides=[8, 16, 32, 64],
        base_edge_list=[16, 32, 64, 128],
        scale_ranges=((1, 32), (16, 64), (32, 128), (64, 256)),
        sigma=0.4,
        norm_cfg=dict(type='GN', num_groups=16, requires_grad=True),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=1.5, alpha=0.4, loss_weight=1.0),
        loss_bbox=dict(type='SmoothL1Loss', beta=0.11, loss_weight=1.0),
    ),
    train_cfg=dict(_delete_=True),
    test_cfg=dict(nms=dict(iou_threshold=0.5)),
)
