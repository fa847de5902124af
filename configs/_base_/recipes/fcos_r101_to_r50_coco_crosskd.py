# method: crosskd
_base_ = [
    '../pairs/fcos_r101_to_r50_coco.py',
    '../datasets/coco_detection_ms.py',
    '../schedules/fcos_2x.py',
    '../runtime_det.py',
]
model = dict(student=dict(  # as published: the teacher's head, without centre sampling, GIoU and edges in strides
    bbox_head=dict(norm_on_bbox=False, center_sampling=False, conv_bias='auto', loss_bbox=dict(type='IoULoss')),
    test_cfg=dict(nms=dict(iou_threshold=0.5)),
))  # fmt: skip
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
