"""PSPNet: ResNet-101 (mIoU 78.52) teaches ResNet-18, PASCAL VOC 2012."""

# pair: pspnet_r101_to_pspnet_r18_voc
_base_ = [
    '../pairs/pspnet_r101_to_pspnet_r18_cityscapes.py',
    '../datasets/voc12aug_512x512.py',
    '../schedules/afdcd_40k.py',
    '../runtime_seg.py',
]
model = dict(
    student=dict(
        data_preprocessor=dict(size=(512, 512)),
        decode_head=dict(num_classes=21),
        auxiliary_head=dict(num_classes=21),
    ),
    teacher=dict(cfg='mmseg::pspnet/pspnet_r101-d8_4xb4-40k_voc12aug-512x512.py'),
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
