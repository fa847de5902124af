"""PSPNet: ResNet-101 (mIoU 43.57) teaches ResNet-18, ADE20K."""

# pair: pspnet_r101_to_pspnet_r18_ade20k
_base_ = [
    '../pairs/pspnet_r101_to_pspnet_r18_cityscapes.py',
    '../datasets/ade20k_512x512.py',
    '../schedules/afdcd_40k.py',
    '../runtime_seg.py',
]
model = dict(
    student=dict(
        data_preprocessor=dict(size=(512, 512)),
        decode_head=dict(num_classes=150),
        auxiliary_head=dict(num_classes=150),
    ),
    teacher=dict(cfg='mmseg::pspnet/pspnet_r101-d8_4xb4-80k_ade20k-512x512.py'),
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
