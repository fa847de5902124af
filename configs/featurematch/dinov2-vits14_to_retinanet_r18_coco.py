_base_ = ['../_base_/recipes/dinov2-vits14_to_retinanet_r18_coco.py', '../_base_/distillers/featurematch_maps.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/featurematch/{{ fileBasenameNoExtension }}'
