"""RTMDet: x teaches l, a step of the chain of mmyolo's distilled RTMDets."""

# pair: rtmdet_x_to_l_coco
_base_ = [
    '../datasets/coco_rtmdet_m.py',
    '../schedules/rtmdet_300e.py',
    '../runtime_det.py',
]
model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmdet::rtmdet/rtmdet_l_8xb32-300e_coco.py'),
    teacher=dict(cfg='mmdet::rtmdet/rtmdet_x_8xb32-300e_coco.py', checkpoint='auto'),
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
