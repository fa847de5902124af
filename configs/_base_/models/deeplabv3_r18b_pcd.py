"""DeepLabV3 on torchvision's ResNet-18 (mmseg's r18b), from a backbone that PCD pre-trained.

ResNetV1c (mmseg's r18) has another stem and does not take these weights.
"""

model = dict(
    type='mmdistill_dense.DistillModel',  # without distillers it is the plain network
    student=dict(
        cfg='mmseg::deeplabv3/deeplabv3_r18b-d8_4xb2-80k_cityscapes-512x1024.py',
        pretrained=None,
        backbone=dict(
            init_cfg=dict(
                type='Pretrained',
                checkpoint='work_dirs/pcd/r18_from_mocov3-r50_imagenet/epoch_100.pth',
                prefix='backbone.',
            )
        ),
    ),
)
