"""Pre-training on a small machine: MobileNetV2 of ImageNet, without a head, teaches the narrow ResNet-18 of CamVid."""

norm = dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], bgr_to_rgb=True)
model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(
        type='mmdistill_dense.BackboneStudent',
        data_preprocessor=dict(type='mmdistill_dense.MultiViewPreprocessor', size=(128, 128), **norm),
        backbone=dict(
            type='mmseg.ResNet',
            depth=18,
            stem_channels=16,
            base_channels=16,
            strides=(1, 2, 2, 1),
            dilations=(1, 1, 1, 2),
            out_indices=(0, 1, 2, 3),
            norm_cfg=dict(type='BN', requires_grad=True),
            style='pytorch',
            zero_init_residual=False,
        ),
    ),
    teacher=dict(
        type='mmdistill_dense.SSLTeacher',
        backbone=dict(type='mmseg.MobileNetV2', widen_factor=1.0, out_indices=(6,)),
        layout='backbone',
        head=None,
        data_preprocessor=norm,
        checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/mobilenet_v2_w1.0_imagenet.pth',
    ),
)
del norm
