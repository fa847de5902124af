"""Mask R-CNN R18-FPN from a backbone that PCD pre-trained: all of it is trained, its batch norms too, across GPUs."""

model = dict(
    type='mmdistill_dense.DistillModel',  # without distillers it is the plain network
    student=dict(
        cfg='mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
        backbone=dict(
            depth=18,
            frozen_stages=-1,  # mmdet's 1 and norm_eval=True are made for weights of a classifier
            norm_eval=False,
            norm_cfg=dict(type='SyncBN', requires_grad=True),
            init_cfg=dict(
                type='Pretrained',
                checkpoint='work_dirs/pcd/r18_from_mocov3-r50_imagenet/epoch_100.pth',
                prefix='backbone.',
            ),
        ),
        neck=dict(in_channels=[64, 128, 256, 512], norm_cfg=dict(type='SyncBN', requires_grad=True)),
    ),
)
