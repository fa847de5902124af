# method: dist
_base_ = [
    '../pairs/faster_rcnn_cascade_mask_x101_to_r50_coco.py',
    '../datasets/coco_detection.py',
    '../schedules/sgd_2x.py',
    '../runtime_det.py',
]
# as published: a box for each class; DIST compares class scores alone and reads no masks
model = dict(
    student=dict(data_preprocessor=dict(pad_mask=False), roi_head=dict(bbox_head=dict(reg_class_agnostic=False)))
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
