"""Pre-training on generated shapes: the backbone of the demo's supervised teacher teaches the demo's student's."""

# pair: toy_pretrain
_base_ = [
    '../models/toy.py',
    '../datasets/shapes_views.py',
    '../schedules/pcd_toy_4e.py',
    '../runtime_pretrain.py',
]
norm = dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], bgr_to_rgb=True)
backbone = dict(_base_.model.backbone, type='mmseg.ResNetV1c')
model = dict(
    _delete_=True,
    type='mmdistill_dense.DistillModel',
    student=dict(
        type='mmdistill_dense.BackboneStudent',
        data_preprocessor=dict(type='mmdistill_dense.MultiViewPreprocessor', size=(64, 64), **norm),
        backbone=dict(backbone, base_channels=8, zero_init_residual=False),
    ),
    teacher=dict(
        type='mmdistill_dense.SSLTeacher',
        backbone=dict(backbone, base_channels=16, out_indices=(3,)),
        layout='backbone',
        head=None,
        data_preprocessor=norm,
        checkpoint='work_dirs/demo/teacher/iter_700.pth',
    ),
)
del norm, backbone
