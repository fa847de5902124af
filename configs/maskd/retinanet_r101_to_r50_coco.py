_base_ = ['../_base_/recipes/retinanet_r101_to_r50_coco.py', '../_base_/distillers/maskd_retinanet_r101.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/maskd/{{ fileBasenameNoExtension }}'
