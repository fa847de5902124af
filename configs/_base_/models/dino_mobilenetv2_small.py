"""DINO for a small machine on MobileNetV2 of ImageNet weights: 100 queries of 96 channels, 2 and 3 layers."""

_base_ = __import__('mmdistill_dense').base('mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py')
places = dict(embed_dims=96, num_heads=4, num_levels=3)
feed_forward = dict(embed_dims=96, feedforward_channels=256)
model = dict(
    num_queries=100,
    num_feature_levels=3,
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        widen_factor=1.0,
        out_indices=(2, 4, 6),
        norm_cfg=dict(type='BN', requires_grad=True),
        init_cfg=dict(
            type='Pretrained', checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/mobilenet_v2_w1.0_imagenet_mmdet.pth'
        ),
    ),
    neck=dict(in_channels=[32, 96, 320], out_channels=96, norm_cfg=dict(type='GN', num_groups=16), num_outs=3),
    encoder=dict(num_layers=2, layer_cfg=dict(self_attn_cfg=places, ffn_cfg=feed_forward)),
    decoder=dict(
        num_layers=3,
        layer_cfg=dict(self_attn_cfg=dict(embed_dims=96, num_heads=4), cross_attn_cfg=places, ffn_cfg=feed_forward),
    ),
    positional_encoding=dict(num_feats=48),
    bbox_head=dict(num_classes=3, embed_dims=96),
    dn_cfg=dict(group_cfg=dict(num_dn_queries=30)),
    test_cfg=dict(max_per_img=100),
)
del places, feed_forward
