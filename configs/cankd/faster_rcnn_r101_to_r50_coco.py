_base_ = ['../_base_/recipes/faster_rcnn_r101_to_r50_coco.py', '../_base_/distillers/cankd_det.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/cankd/{{ fileBasenameNoExtension }}'
