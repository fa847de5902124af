"""Pre-training on a small machine: MobileNetV2 of ImageNet, without a head, teaches one of half its width."""

# pair: mobilenetv2w05_from_mobilenetv2
_base_ = [
    '../pairs/r18w16_from_mobilenetv2.py',
    '../datasets/unlabeled_small.py',
    '../schedules/pcd_adamw_100e.py',
    '../runtime_pretrain.py',
]
model = dict(
    student=dict(
        backbone=dict(
            _delete_=True,
            type='mmseg.MobileNetV2',
            widen_factor=0.5,
            strides=(1, 2, 2, 2, 1, 1, 1),
            dilations=(1, 1, 1, 1, 1, 2, 2),
        )
    )
)
