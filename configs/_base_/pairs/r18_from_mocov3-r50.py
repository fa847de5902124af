"""Pre-training: a self-supervised ResNet-50 (MoCo v3, 1000 epochs) teaches a ResNet-18 from random weights."""

model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(
        type='mmdistill_dense.BackboneStudent',
        data_preprocessor=dict(
            type='mmdistill_dense.MultiViewPreprocessor',
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            bgr_to_rgb=True,
            size=(224, 224),
        ),
        backbone=dict(
            type='mmseg.ResNet',
            depth=18,
            norm_cfg=dict(type='BN', requires_grad=True),
            norm_eval=False,
            style='pytorch',
            zero_init_residual=False,  # True in mmseg and mmdet
            init_cfg=[
                dict(type='Kaiming', layer='Conv2d', mode='fan_out', nonlinearity='relu'),
                dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
            ],
        ),
    ),
    teacher=dict(
        type='mmdistill_dense.SSLTeacher',
        backbone=dict(type='mmseg.ResNet', depth=50, out_indices=(3,), style='pytorch'),
        layout='mocov3',
        checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/mocov3_r50.pth',
    ),
)
