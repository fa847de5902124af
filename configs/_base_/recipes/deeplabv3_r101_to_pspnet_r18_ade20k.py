"""DeepLabV3 ResNet-101 teaches PSPNet ResNet-18, ADE20K."""

# pair: deeplabv3_r101_to_pspnet_r18_ade20k
_base_ = [
    '../pairs/deeplabv3_r101_to_r18_cityscapes.py',
    '../datasets/ade20k_512x512.py',
    '../schedules/afdcd_40k.py',
    '../runtime_seg.py',
]
model = dict(
    student=dict(
        cfg='mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',
        data_preprocessor=dict(size=(512, 512)),
        decode_head=dict(num_classes=150),
        auxiliary_head=dict(num_classes=150),
    ),
    teacher=dict(cfg='mmseg::deeplabv3/deeplabv3_r101-d8_4xb4-80k_ade20k-512x512.py'),
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
