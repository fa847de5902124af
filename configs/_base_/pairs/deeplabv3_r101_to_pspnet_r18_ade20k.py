"""DeepLabV3 ResNet-101 teaches PSPNet ResNet-18, ADE20K."""

_base_ = './deeplabv3_r101_to_r18_ade20k.py'
model = dict(student=dict(cfg='mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py'))
