_base_ = ['../control/mask_rcnn_r101_to_r50_coco.py', '../_base_/distillers/dist_rcnn.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/dist/{{ fileBasenameNoExtension }}'
