"""RetinaNet on a frozen DINOv2 ViT-S/14: a pyramid from its last map, then an FPN, strides 8 to 128."""

_base_ = __import__('mmdistill_dense').base('mmdet::_base_/models/retinanet_r50_fpn.py')
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmdistill_dense.VisionTransformer',
        model='dinov2_vits14',
        checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/dinov2_vits14_pretrain.pth',
        out_blocks=(-1, -1, -1, -1),
        stride=16,  # whatever the patch: the pyramid has strides 4 to 32
        frozen=True,
    ),
    neck=[
        dict(type='mmseg.Feature2Pyramid', embed_dim=384, rescales=[4, 2, 1, 0.5], norm_cfg=norm_cfg),
        dict(
            type='FPN',
            in_channels=[384, 384, 384, 384],
            out_channels=256,
            start_level=1,
            add_extra_convs='on_output',
            num_outs=5,
            norm_cfg=norm_cfg,
        ),
    ],
)
del norm_cfg
