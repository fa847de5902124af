"""Mask R-CNN R34-FPN from a backbone that PCD pre-trained."""

_base_ = './mask_rcnn_r18_fpn_pcd.py'
model = dict(
    student=dict(
        backbone=dict(depth=34, init_cfg=dict(checkpoint='work_dirs/pcd/r34_from_mocov3-r50_imagenet/epoch_100.pth'))
    )
)
