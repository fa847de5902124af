_base_ = ['../_base_/recipes/retinanet_mobilenetv2_to_r18w16_bccd.py', '../_base_/distillers/maskd_retinanet_r18w16.py']
model = dict(distillers=_base_.distillers, inherit=[('bbox_head', 'bbox_head')])
work_dir = 'work_dirs/maskd/{{ fileBasenameNoExtension }}'
