"""DINOv2 ViT-S/14 teaches RetinaNet-R18 (AP 31.7 alone) by its map of half as large pictures, COCO."""

# pair: dinov2-vits14_to_retinanet_r18_coco
_base_ = [
    '../datasets/coco_detection.py',
    '../schedules/dense_1x.py',
    '../runtime_det.py',
]
model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'),
    teacher=dict(
        type='mmdistill_dense.FoundationTeacher',
        model='dinov2_vits14',
        checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/dinov2_vits14_pretrain.pth',
        scale=0.5,  # 800 x 1333 pixels are 29 x 48 patches then; whole they would cost five student steps
    ),
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
