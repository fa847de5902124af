"""DDRNet: 23 (mIoU 79.99) teaches 23-slim (77.84 alone); real-time networks of two branches."""

model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmseg::ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py'),
    teacher=dict(cfg='mmseg::ddrnet/ddrnet_23_in1k-pre_2xb6-120k_cityscapes-1024x1024.py', checkpoint='auto'),
)
