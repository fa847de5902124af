"""A transformer, UPerNet Swin-B (mIoU 47.99), teaches PSPNet ResNet-18: last stages at stride 32 and 8, scores at 4
and 8."""

# pair: upernet_swin_b_to_pspnet_r18_ade20k
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
    teacher=dict(cfg='mmseg::swin/swin-base-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py'),
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
