"""PSPNet: ResNet-101 (mIoU 79.76) teaches ResNet-18 (74.87 alone), both as mmseg has them."""

model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py'),
    teacher=dict(cfg='mmseg::pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py', checkpoint='auto'),
)
