"""DeepLabV3: ResNet-101 teaches MobileNetV2; head of 128 channels and no auxiliary head, as in the Af-DCD code base."""

_base_ = './deeplabv3_r101_to_r18_cityscapes.py'
model = dict(
    student=dict(
        cfg='mmseg::mobilenet_v2/mobilenet-v2-d8_deeplabv3_4xb2-80k_cityscapes-512x1024.py',
        decode_head=dict(channels=128),
        auxiliary_head=None,
    )
)
