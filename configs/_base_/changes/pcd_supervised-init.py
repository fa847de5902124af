"""A ResNet-18 from ImageNet's labels, where PCD's pre-training is compared with it."""

# fits: pair coco, variant supervised-init
# changes: pcd-init
model = dict(
    student=dict(backbone=dict(init_cfg=dict(_delete_=True, type='Pretrained', checkpoint='torchvision://resnet18')))
)
