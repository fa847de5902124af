"""PIDNet: L (mIoU 80.89) teaches S (78.74 alone); real-time networks of three branches."""

model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py'),
    teacher=dict(cfg='mmseg::pidnet/pidnet-l_2xb6-120k_1024x1024-cityscapes.py', checkpoint='auto'),
)
