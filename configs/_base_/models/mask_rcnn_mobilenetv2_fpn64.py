"""Mask R-CNN for a small machine on MobileNetV2 of ImageNet weights: 64 channels, 128 RoIs a picture, narrow heads."""

_base_ = __import__('mmdistill_dense').base('mmdet::_base_/models/mask-rcnn_r50_fpn.py')
norm = dict(type='BN', requires_grad=True)
model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),  # of the MobileNetV2 weights
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        widen_factor=1.0,
        out_indices=(1, 2, 4, 6),
        norm_cfg=norm,
        init_cfg=dict(
            type='Pretrained', checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/mobilenet_v2_w1.0_imagenet_mmdet.pth'
        ),
    ),
    neck=dict(in_channels=[24, 32, 96, 320], out_channels=64, num_outs=4, norm_cfg=norm),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(scales=[4], strides=[4, 8, 16, 32]),  # 16 to 128 pixels
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=1),
        mask_roi_extractor=dict(out_channels=64),
        mask_head=dict(num_convs=2, in_channels=64, conv_out_channels=64, num_classes=1),
    ),
    train_cfg=dict(rpn_proposal=dict(nms_pre=500, max_per_img=300), rcnn=dict(sampler=dict(num=128))),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=300)),
)
del norm
