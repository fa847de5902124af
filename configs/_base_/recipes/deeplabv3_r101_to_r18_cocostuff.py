"""DeepLabV3: ResNet-101 (mIoU 40.87) teaches ResNet-18, COCO-Stuff 164k with its 171 classes."""

# pair: deeplabv3_r101_to_r18_cocostuff
_base_ = [
    '../pairs/deeplabv3_r101_to_r18_cityscapes.py',
    '../datasets/cocostuff_512x512.py',
    '../schedules/cirkd_80k.py',
    '../runtime_seg.py',
]
model = dict(
    student=dict(
        data_preprocessor=dict(size=(512, 512)),
        decode_head=dict(num_classes=171),
        auxiliary_head=dict(num_classes=171),
    ),
    teacher=dict(cfg='mmseg::deeplabv3/deeplabv3_r101-d8_4xb4-80k_coco-stuff164k-512x512.py'),
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
