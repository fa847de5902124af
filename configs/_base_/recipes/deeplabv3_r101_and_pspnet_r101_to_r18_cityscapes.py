"""Two teachers, DeepLabV3 (mIoU 80.2) and PSPNet (79.76) with ResNet-101, teach DeepLabV3 ResNet-18; our own pair."""

# pair: deeplabv3_r101_and_pspnet_r101_to_r18_cityscapes
_base_ = [
    '../pairs/deeplabv3_r101_to_r18_cityscapes.py',
    '../datasets/cityscapes_512x1024.py',
    '../schedules/afdcd_40k.py',
    '../runtime_seg.py',
]
model = dict(
    teacher=dict(
        _delete_=True,
        deeplabv3=dict(cfg='mmseg::deeplabv3/deeplabv3_r101-d8_4xb2-80k_cityscapes-512x1024.py', checkpoint='auto'),
        pspnet=dict(cfg='mmseg::pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py', checkpoint='auto'),
    )
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
