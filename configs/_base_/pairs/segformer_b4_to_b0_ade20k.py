"""SegFormer: B4 (mIoU 48.46) teaches B0 (37.41 alone), ADE20K."""

model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'),
    teacher=dict(cfg='mmseg::segformer/segformer_mit-b4_8xb2-160k_ade20k-512x512.py', checkpoint='auto'),
)
