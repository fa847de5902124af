"""RTMDet: s teaches tiny, a step of the chain of mmyolo's distilled RTMDets."""

# pair: rtmdet_s_to_tiny_coco
_base_ = [
    '../datasets/coco_rtmdet.py',
    '../schedules/rtmdet_300e.py',
    '../runtime_det.py',
]
model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'),
    teacher=dict(cfg='mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py', checkpoint='auto'),
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
