_base_ = ['../_base_/recipes/retinanet_x101_to_r50_coco_mgd.py', '../_base_/distillers/mgd_det.py']
model = dict(distillers=_base_.distillers, inherit=[('neck', 'neck'), ('bbox_head', 'bbox_head')])
work_dir = 'work_dirs/mgd/{{ fileBasenameNoExtension }}'
