"""Cascade Mask R-CNN ResNeXt-101 64x4d (AP 45.6) teaches Faster R-CNN ResNet-50."""

_base_ = './faster_rcnn_r101_to_r50_coco.py'
model = dict(
    student=dict(
        data_preprocessor=dict(pad_mask=True),  # the teacher learns its tokens on the student's batches, masks and all
        roi_head=dict(bbox_head=dict(reg_class_agnostic=True)),  # as each stage of the cascade
    ),
    teacher=dict(cfg='mmdet::cascade_rcnn/cascade-mask-rcnn_x101-64x4d_fpn_20e_coco.py'),
)
