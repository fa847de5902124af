"""RTMDet: large (AP 51.3) teaches tiny (40.9 alone); levels of 256 against 96 channels."""

# pair: rtmdet_l_to_tiny_coco
_base_ = [
    '../datasets/coco_rtmdet.py',
    '../schedules/rtmdet_300e.py',
    '../runtime_det.py',
]
model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'),
    teacher=dict(cfg='mmdet::rtmdet/rtmdet_l_8xb32-300e_coco.py', checkpoint='auto'),
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
