"""DAB-DETR: ResNet-50 (AP 42.3 after 50 epochs) teaches ResNet-18, which mmdet does not publish. KD-DETR's pair."""

model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(
        cfg='mmdet::dab_detr/dab-detr_r50_8xb2-50e_coco.py',
        backbone=dict(depth=18, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')),
        neck=dict(in_channels=[512]),
    ),
    teacher=dict(cfg='mmdet::dab_detr/dab-detr_r50_8xb2-50e_coco.py', checkpoint='auto'),
)
