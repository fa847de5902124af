"""Cascade Mask R-CNN ResNeXt-101 32x4d with deformable convolutions (box AP 47.3, mask AP 41.1) teaches Mask R-CNN
ResNet-50, the pair of FGD and MGD."""

# pair: mask_rcnn_cascade_mask_x101_to_r50_coco
_base_ = [
    '../pairs/mask_rcnn_r101_to_r50_coco.py',
    '../datasets/coco_instance.py',
    '../schedules/sgd_2x.py',
    '../runtime_det.py',
]
model = dict(teacher=dict(cfg='mmdet::dcn/cascade-mask-rcnn_x101-32x4d-dconv-c3-c5_fpn_1x_coco.py'))
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
