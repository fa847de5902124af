"""A transformer, Mask R-CNN Swin-S (box AP 48.2, mask AP 43.2), teaches Mask R-CNN ResNet-50: levels of one form."""

# pair: mask_rcnn_swin_s_to_r50_coco
_base_ = [
    '../pairs/mask_rcnn_r101_to_r50_coco.py',
    '../datasets/coco_instance.py',
    '../schedules/sgd_2x.py',
    '../runtime_det.py',
]
model = dict(teacher=dict(cfg='mmdet::swin/mask-rcnn_swin-s-p4-w7_fpn_amp-ms-crop-3x_coco.py'))
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
