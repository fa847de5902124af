"""A ResNet-18 from ImageNet's labels, to compare PCD's pre-training with."""

# fits: pair coco|r18b, variant supervised-init
# changes: pcd-init
model = dict(
    student=dict(backbone=dict(init_cfg=dict(_delete_=True, type='Pretrained', checkpoint='torchvision://resnet18')))
)
