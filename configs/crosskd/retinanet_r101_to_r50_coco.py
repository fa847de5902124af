_base_ = ['../_base_/recipes/retinanet_r101_to_r50_coco_crosskd.py', '../_base_/distillers/crosskd_retinanet.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/crosskd/{{ fileBasenameNoExtension }}'
