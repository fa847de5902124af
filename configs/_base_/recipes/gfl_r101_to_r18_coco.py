"""GFL: ResNet-101 of 24 epochs at many scales (AP 44.7) teaches ResNet-18, the smallest pair of LD."""

# pair: gfl_r101_to_r18_coco
_base_ = [
    '../pairs/gfl_r101_to_r50_coco.py',
    '../datasets/coco_detection.py',
    '../schedules/dense_1x.py',
    '../runtime_det.py',
]
model = dict(
    student=dict(
        backbone=dict(depth=18, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')),
        neck=dict(in_channels=[64, 128, 256, 512]),
    )
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
