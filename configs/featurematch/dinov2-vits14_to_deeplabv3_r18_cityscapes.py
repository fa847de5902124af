_base_ = ['../_base_/recipes/dinov2-vits14_to_deeplabv3_r18_cityscapes.py', '../_base_/distillers/featurematch_maps.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/featurematch/{{ fileBasenameNoExtension }}'
