"""A ResNet-34 from ImageNet's labels, where PCD's pre-training is compared with it."""

# fits: pair r34 coco, variant supervised-init
# changes: pcd-init
model = dict(
    student=dict(backbone=dict(init_cfg=dict(_delete_=True, type='Pretrained', checkpoint='torchvision://resnet34')))
)
