"""PSPNet: ResNet-101 (mIoU 43.57) teaches ResNet-18, ADE20K."""

_base_ = './pspnet_r101_to_pspnet_r18_cityscapes.py'
model = dict(
    student=dict(
        data_preprocessor=dict(size=(512, 512)),
        decode_head=dict(num_classes=150),
        auxiliary_head=dict(num_classes=150),
    ),
    teacher=dict(cfg='mmseg::pspnet/pspnet_r101-d8_4xb4-80k_ade20k-512x512.py'),
)
