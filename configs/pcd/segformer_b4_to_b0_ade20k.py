_base_ = ['../control/segformer_b4_to_b0_ade20k.py', '../_base_/distillers/pcd_seg.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/pcd/{{ fileBasenameNoExtension }}'
