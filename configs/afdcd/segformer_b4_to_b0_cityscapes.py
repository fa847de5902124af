_base_ = ['../control/segformer_b4_to_b0_cityscapes.py', '../_base_/distillers/afdcd_seg.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/afdcd/{{ fileBasenameNoExtension }}'
