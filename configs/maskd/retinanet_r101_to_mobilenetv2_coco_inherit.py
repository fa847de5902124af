_base_ = [
    '../_base_/recipes/retinanet_r101_to_mobilenetv2_coco.py',
    '../_base_/distillers/maskd_retinanet_r101_to_mobilenetv2.py',
]
model = dict(distillers=_base_.distillers, inherit=[('bbox_head', 'bbox_head')])
work_dir = 'work_dirs/maskd/{{ fileBasenameNoExtension }}'
