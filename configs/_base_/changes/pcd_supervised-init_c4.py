"""A ResNet-18 from ImageNet's labels, the part in the head too."""

# fits: pair c4 coco, variant supervised-init
# changes: pcd-init
start = dict(_delete_=True, type='Pretrained', checkpoint='torchvision://resnet18')
model = dict(student=dict(backbone=dict(init_cfg=start), roi_head=dict(shared_head=dict(init_cfg=start))))
del start
