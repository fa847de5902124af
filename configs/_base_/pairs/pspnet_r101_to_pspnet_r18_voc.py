"""PSPNet: ResNet-101 (mIoU 78.52) teaches ResNet-18, PASCAL VOC 2012."""

_base_ = './pspnet_r101_to_pspnet_r18_cityscapes.py'
model = dict(
    student=dict(
        data_preprocessor=dict(size=(512, 512)),
        decode_head=dict(num_classes=21),
        auxiliary_head=dict(num_classes=21),
    ),
    teacher=dict(cfg='mmseg::pspnet/pspnet_r101-d8_4xb4-40k_voc12aug-512x512.py'),
)
