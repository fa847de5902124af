_base_ = './mask-rcnn_r34_fpn_1x_coco_pcd-init.py'
model = dict(
    student=dict(backbone=dict(init_cfg=dict(_delete_=True, type='Pretrained', checkpoint='torchvision://resnet34')))
)
work_dir = 'work_dirs/pcd/{{ fileBasenameNoExtension }}'
