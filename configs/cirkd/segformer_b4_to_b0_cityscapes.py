_base_ = ['../_base_/recipes/segformer_b4_to_b0_cityscapes.py', '../_base_/distillers/cirkd_segformer_b4_to_b0.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/cirkd/{{ fileBasenameNoExtension }}'
