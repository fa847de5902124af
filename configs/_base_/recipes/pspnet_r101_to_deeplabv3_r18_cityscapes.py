"""PSPNet ResNet-101 of 40k iterations (mIoU 78.34) teaches DeepLabV3 ResNet-18 in crops of 512x512, as in MGD."""

# pair: pspnet_r101_to_deeplabv3_r18_cityscapes
_base_ = [
    '../pairs/pspnet_r101_to_pspnet_r18_cityscapes.py',
    '../datasets/cityscapes_512x512_stock.py',
    '../schedules/mgd_40k.py',
    '../runtime_seg.py',
]
model = dict(
    student=dict(
        cfg='mmseg::deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024.py', data_preprocessor=dict(size=(512, 512))
    ),
    teacher=dict(cfg='mmseg::pspnet/pspnet_r101-d8_4xb2-40k_cityscapes-512x1024.py'),
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
