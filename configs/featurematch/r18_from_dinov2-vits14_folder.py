_base_ = ['../_base_/recipes/r18_from_dinov2-vits14_folder.py', '../_base_/distillers/featurematch_maps.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/featurematch/{{ fileBasenameNoExtension }}'
