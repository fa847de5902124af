_base_ = [
    '../_base_/recipes/faster_rcnn_cascade_mask_x101_to_r50_coco_dist.py',
    '../_base_/distillers/dist_rcnn_mimic.py',
]
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/dist/{{ fileBasenameNoExtension }}'
