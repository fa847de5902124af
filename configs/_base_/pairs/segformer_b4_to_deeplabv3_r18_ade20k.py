"""A transformer, SegFormer B4 (mIoU 48.46), teaches DeepLabV3 ResNet-18: last stages at stride 32 and 8, scores at 4
and 8."""

_base_ = './deeplabv3_r101_to_r18_ade20k.py'
model = dict(teacher=dict(cfg='mmseg::segformer/segformer_mit-b4_8xb2-160k_ade20k-512x512.py'))
