_base_ = ['../_base_/recipes/retinanet_r101_to_r50_coco.py', '../_base_/distillers/freekd_retinanet.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/freekd/{{ fileBasenameNoExtension }}'
