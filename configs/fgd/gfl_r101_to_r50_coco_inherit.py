_base_ = './gfl_r101_to_r50_coco.py'
model = dict(inherit=[('neck', 'neck'), ('bbox_head', 'bbox_head')])
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
work_dir = 'work_dirs/fgd/{{ fileBasenameNoExtension }}'
