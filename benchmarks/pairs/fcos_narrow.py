"""FCOS on a ResNet-18 of a quarter of the width, from random weights."""

_base_ = [
    __import__('mmdistill_dense').base('mmdistill_dense::_base_/models/retinanet_r18w16_fpn64.py'),
    '../../configs/_base_/datasets/nuclei_detection.py',
    '../../configs/_base_/schedules/adamw_12e.py',
    '../../configs/_base_/runtime_det.py',
]
model = dict(
    type='FCOS',
    bbox_head=dict(
        _delete_=True,
        type='FCOSHead',
        num_classes=1,
        in_channels=64,
        stacked_convs=2,
        feat_channels=64,
        strides=[8, 16, 32, 64],
        regress_ranges=((-1, 32), (32, 64), (64, 128), (128, 1e8)),
        center_sampling=True,
        norm_on_bbox=True,
        norm_cfg=dict(type='GN', num_groups=16, requires_grad=True),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=1.0),
        loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
    ),
    train_cfg=None,
)
