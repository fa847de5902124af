"""Deformable DETR, two-stage with refined boxes: ResNet-50 (AP 47.0) teaches ResNet-18, which mmdet does not publish.

The pair of MasKD's second author, who compares the three maps of the backbone.
"""

# pair: deformable_detr_r50_to_r18_coco
# method: maskd
_base_ = [
    '../datasets/coco_detr.py',
    '../schedules/detr_50e.py',
    '../runtime_det.py',
]
model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(
        cfg='mmdet::deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco.py',
        backbone=dict(depth=18, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')),
        neck=dict(in_channels=[128, 256, 512]),
    ),
    teacher=dict(cfg='mmdet::deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco.py', checkpoint='auto'),
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
