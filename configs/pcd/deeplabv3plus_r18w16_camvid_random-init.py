_base_ = './deeplabv3plus_r18w16_camvid_pcd-init.py'
model = dict(backbone=dict(init_cfg=None))
work_dir = 'work_dirs/pcd/{{ fileBasenameNoExtension }}'
