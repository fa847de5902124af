_base_ = './retinanet_r18_fpn_1x_coco_pcd-init.py'
model = dict(
    student=dict(backbone=dict(init_cfg=dict(_delete_=True, type='Pretrained', checkpoint='torchvision://resnet18')))
)
work_dir = 'work_dirs/pcd/{{ fileBasenameNoExtension }}'
