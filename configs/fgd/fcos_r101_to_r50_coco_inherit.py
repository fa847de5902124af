_base_ = ['../_base_/recipes/fcos_r101_to_r50_coco.py', '../_base_/distillers/fgd_fcos.py']
model = dict(distillers=_base_.distillers, inherit=[('neck', 'neck'), ('bbox_head', 'bbox_head')])
work_dir = 'work_dirs/fgd/{{ fileBasenameNoExtension }}'
