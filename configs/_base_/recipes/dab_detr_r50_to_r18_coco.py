"""DAB-DETR: ResNet-50 (AP 42.3 after 50 epochs) teaches ResNet-18, which mmdet does not publish. KD-DETR's pair."""

# pair: dab_detr_r50_to_r18_coco
_base_ = [
    '../datasets/coco_detr.py',
    '../schedules/detr_12e.py',
    '../runtime_det.py',
]
model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(
        cfg='mmdet::dab_detr/dab-detr_r50_8xb2-50e_coco.py',
        backbone=dict(depth=18, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')),
        neck=dict(in_channels=[512]),
    ),
    teacher=dict(cfg='mmdet::dab_detr/dab-detr_r50_8xb2-50e_coco.py', checkpoint='auto'),
)
param_scheduler = [dict(type='MultiStepLR', begin=0, end=50, by_epoch=True, milestones=[40], gamma=0.1)]  # as mmdet
train_cfg = dict(max_epochs=50)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
