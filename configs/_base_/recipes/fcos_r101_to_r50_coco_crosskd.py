# method: crosskd
_base_ = [
    '../pairs/fcos_r101_to_r50_coco.py',
    '../datasets/coco_detection_ms.py',
    '../schedules/fcos_2x.py',
    '../runtime_det.py',
]
# as published: the student has the teacher's head, without centre sampling, GIoU and edges in strides
model = dict(
    student=dict(
        bbox_head=dict(norm_on_bbox=False, center_sampling=False, conv_bias='auto', loss_bbox=dict(type='IoULoss')),
        test_cfg=dict(nms=dict(iou_threshold=0.5)),
    )
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
