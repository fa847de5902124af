"""The student of camvid_starts.yaml from a backbone that was pre-trained by SEED."""

_base_ = '../../configs/_base_/recipes/deeplabv3plus_mobilenetv2_to_r18w16_camvid.py'
init_cfg = dict(type='Pretrained', checkpoint='work_dirs/pcd/pretrain_seed/epoch_40.pth', prefix='backbone.')
model = dict(student=dict(backbone=dict(init_cfg=init_cfg)))
del init_cfg
