"""A transformer, UPerNet Swin-B (mIoU 47.99), teaches PSPNet ResNet-18: last stages at stride 32 and 8, scores at 4
and 8."""

_base_ = './pspnet_r101_to_pspnet_r18_ade20k.py'
model = dict(teacher=dict(cfg='mmseg::swin/swin-base-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py'))
