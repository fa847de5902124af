"""What our two small GFLs share: the neck of the small RetinaNets and a head of one anchor a place.

The norm of the head, shared by the levels, has 16 groups of 4 channels.
"""

_base_ = './retinanet_fpn64.py'
model = dict(
    type='GFL',
    bbox_head=dict(
        _delete_=True,
        type='GFLHead',
        num_classes=3,
        in_channels=64,
        stacked_convs=2,
        feat_channels=64,
        norm_cfg=dict(type='GN', num_groups=16, requires_grad=True),
        anchor_generator=dict(
            type='AnchorGenerator',
            octave_base_scale=4,  # 32 to 256 pixels; they only decide which level learns a box
            scales_per_octave=1,
            ratios=[1.0],
            strides=[8, 16, 32, 64],
        ),
        reg_max=16,
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_dfl=dict(type='DistributionFocalLoss', loss_weight=0.25),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
    ),
    train_cfg=dict(
        _delete_=True, assigner=dict(type='ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1, debug=False
    ),
    test_cfg=dict(nms=dict(iou_threshold=0.6)),
)
