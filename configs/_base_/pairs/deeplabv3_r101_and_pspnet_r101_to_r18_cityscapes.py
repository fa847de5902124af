"""Two teachers, DeepLabV3 (mIoU 80.2) and PSPNet (79.76) with ResNet-101, teach DeepLabV3 ResNet-18; our own pair."""

_base_ = './deeplabv3_r101_to_r18_cityscapes.py'
model = dict(
    teacher=dict(
        _delete_=True,
        deeplabv3=dict(cfg='mmseg::deeplabv3/deeplabv3_r101-d8_4xb2-80k_cityscapes-512x1024.py', checkpoint='auto'),
        pspnet=dict(cfg='mmseg::pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py', checkpoint='auto'),
    )
)
