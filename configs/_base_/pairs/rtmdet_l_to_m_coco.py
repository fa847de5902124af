"""RTMDet: l teaches m, a step of the chain of mmyolo's distilled RTMDets."""

model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmdet::rtmdet/rtmdet_m_8xb32-300e_coco.py'),
    teacher=dict(cfg='mmdet::rtmdet/rtmdet_l_8xb32-300e_coco.py', checkpoint='auto'),
)
