"""RTMDet: m teaches s, a step of the chain of mmyolo's distilled RTMDets."""

# pair: rtmdet_m_to_s_coco
_base_ = [
    '../datasets/coco_rtmdet_m.py',
    '../schedules/rtmdet_300e.py',
    '../runtime_det.py',
]
model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py'),
    teacher=dict(cfg='mmdet::rtmdet/rtmdet_m_8xb32-300e_coco.py', checkpoint='auto'),
)
train_pipeline, custom_hooks = _base_.train_pipeline, _base_.custom_hooks
for resize in (train_pipeline[3], custom_hooks[0].switch_pipeline[2]):
    resize.update(ratio_range=(0.5, 2.0))  # as mmdet's RTMDet-s trains
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
del resize
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
