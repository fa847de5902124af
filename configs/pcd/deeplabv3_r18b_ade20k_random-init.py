_base_ = './deeplabv3_r18b_ade20k_pcd-init.py'
model = dict(student=dict(backbone=dict(init_cfg=None)))
work_dir = 'work_dirs/pcd/{{ fileBasenameNoExtension }}'
