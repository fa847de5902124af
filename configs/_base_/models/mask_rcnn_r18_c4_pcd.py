"""Mask R-CNN R18-C4 from a backbone that PCD pre-trained: three stages, and the fourth as the head of the boxes."""

norm = dict(type='SyncBN', requires_grad=True)
start = dict(type='Pretrained', checkpoint='work_dirs/pcd/r18_from_mocov3-r50_imagenet/epoch_100.pth')
model = dict(
    type='mmdistill_dense.DistillModel',  # without distillers it is the plain network
    student=dict(
        cfg='mmdet::mask_rcnn/mask-rcnn_r50-caffe-c4_1x_coco.py',
        data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
        backbone=dict(
            depth=18,
            style='pytorch',
            frozen_stages=-1,
            norm_eval=False,
            norm_cfg=norm,
            init_cfg=dict(start, prefix='backbone.'),
        ),
        rpn_head=dict(in_channels=256, feat_channels=256),
        roi_head=dict(
            shared_head=dict(
                depth=18,
                style='pytorch',
                norm_eval=False,
                norm_cfg=norm,
                init_cfg=dict(start, checkpoint='backbone', prefix='backbone.'),  # the file that the backbone has
            ),
            bbox_roi_extractor=dict(out_channels=256),
            bbox_head=dict(in_channels=512),
            mask_head=dict(in_channels=512),
        ),
    ),
)
del norm, start
