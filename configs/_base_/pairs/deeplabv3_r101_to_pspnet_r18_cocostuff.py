"""DeepLabV3 ResNet-101 teaches PSPNet ResNet-18, COCO-Stuff 164k."""

_base_ = './deeplabv3_r101_to_r18_cityscapes.py'
model = dict(
    student=dict(
        cfg='mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',
        data_preprocessor=dict(size=(512, 512)),
        decode_head=dict(num_classes=171),
        auxiliary_head=dict(num_classes=171),
    ),
    teacher=dict(cfg='mmseg::deeplabv3/deeplabv3_r101-d8_4xb4-80k_coco-stuff164k-512x512.py'),
)
