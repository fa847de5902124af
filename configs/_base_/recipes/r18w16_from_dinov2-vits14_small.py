"""Pre-training on a small machine: DINOv2 ViT-S/14 teaches the narrow ResNet-18 of CamVid."""

# pair: r18w16_from_dinov2-vits14
_base_ = [
    '../pairs/r18w16_from_mobilenetv2.py',
    '../datasets/unlabeled_small_one_view.py',
    '../schedules/pcd_adamw_100e.py',
    '../runtime_pretrain.py',
]
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(T_max=35, end=40)
train_cfg = dict(max_epochs=40)
model = dict(
    student=dict(
        data_preprocessor=dict(size=(160, 160), mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], mixup=True)
    ),
    teacher=dict(
        _delete_=True,
        type='mmdistill_dense.FoundationTeacher',
        model='dinov2_vits14',
        checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/dinov2_vits14_pretrain.pth',
    ),
)
