"""RetinaNet R18-FPN from a backbone that PCD pre-trained."""

_base_ = './mask_rcnn_r18_fpn_pcd.py'
model = dict(student=dict(cfg='mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'))
