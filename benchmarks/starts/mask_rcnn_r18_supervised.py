"""Mask R-CNN R18-FPN on COCO, all of it trained, from a classifier of ImageNet."""

_base_ = '../../configs/pcd/mask-rcnn_r18_fpn_1x_coco_pcd-init.py'
model = dict(
    student=dict(backbone=dict(init_cfg=dict(_delete_=True, type='Pretrained', checkpoint='torchvision://resnet18')))
)
