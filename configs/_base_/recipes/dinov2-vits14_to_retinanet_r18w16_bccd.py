"""DINOv2 ViT-S/14 teaches a narrow RetinaNet-R18 (1.0 M parameters) by its map, BCCD at half size."""

# pair: dinov2-vits14_to_retinanet_r18w16_bccd
_base_ = [
    '../datasets/bccd.py',
    '../schedules/adamw_6e.py',
    '../runtime_det.py',
]
model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmdistill_dense::_base_/models/retinanet_r18w16_fpn64.py'),
    teacher=dict(
        type='mmdistill_dense.FoundationTeacher',
        model='dinov2_vits14',
        checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/dinov2_vits14_pretrain.pth',
    ),
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
