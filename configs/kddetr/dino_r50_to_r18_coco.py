_base_ = ['../_base_/recipes/dino_r50_to_r18_coco.py', '../_base_/distillers/kddetr_dab.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/kddetr/{{ fileBasenameNoExtension }}'
