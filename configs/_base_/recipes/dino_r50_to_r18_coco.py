"""DINO with four levels: ResNet-50 (AP 49.0 after 12 epochs) teaches ResNet-18, which mmdet does not publish.

Compared in backbone and neck (four levels of 256 channels); the queries of a decoder have no map to compare.
"""

# pair: dino_r50_to_r18_coco
_base_ = [
    '../datasets/coco_detr.py',
    '../schedules/detr_12e.py',
    '../runtime_det.py',
]
model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(
        cfg='mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
        backbone=dict(depth=18, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')),
        neck=dict(in_channels=[128, 256, 512]),
    ),
    teacher=dict(cfg='mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py', checkpoint='auto'),
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
