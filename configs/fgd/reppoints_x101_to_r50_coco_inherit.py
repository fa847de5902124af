_base_ = ['../_base_/recipes/reppoints_x101_to_r50_coco.py', '../_base_/distillers/fgd_reppoints.py']
model = dict(distillers=_base_.distillers, inherit=[('neck', 'neck'), ('bbox_head', 'bbox_head')])
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
work_dir = 'work_dirs/fgd/{{ fileBasenameNoExtension }}'
