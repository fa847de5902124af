"""A transformer, SegFormer B4 (mIoU 48.46), teaches DeepLabV3 ResNet-18: last stages at stride 32 and 8, scores at 4
and 8."""

# pair: segformer_b4_to_deeplabv3_r18_ade20k
_base_ = [
    '../pairs/deeplabv3_r101_to_r18_cityscapes.py',
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
    teacher=dict(cfg='mmseg::segformer/segformer_mit-b4_8xb2-160k_ade20k-512x512.py'),
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
