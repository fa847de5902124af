_base_ = ['../_base_/recipes/retinanet_x101_to_r50_coco.py', '../_base_/distillers/maskd_retinanet_x101.py']
model = dict(distillers=_base_.distillers, inherit=[('neck', 'neck'), ('bbox_head', 'bbox_head')])
work_dir = 'work_dirs/maskd/{{ fileBasenameNoExtension }}'
