_base_ = ['../_base_/recipes/retinanet_x101_1x_to_r50_coco.py', '../_base_/distillers/fgd_det.py']
model = dict(distillers=_base_.distillers, inherit=[('neck', 'neck'), ('bbox_head', 'bbox_head')])
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
work_dir = 'work_dirs/fgd/{{ fileBasenameNoExtension }}'
