_base_ = [
    '../_base_/recipes/faster_rcnn_cascade_mask_x101_to_r50_coco.py',
    '../_base_/distillers/_maskd_faster_rcnn_cascade_mask_x101_inherit.py',
]
model = dict(distillers=_base_.distillers, inherit=[('neck', 'neck')])
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
work_dir = 'work_dirs/maskd/{{ fileBasenameNoExtension }}'
