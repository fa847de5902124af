_base_ = ['../control/rtmdet_l_to_tiny_coco.py', '../_base_/distillers/dist_rtmdet.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/dist/{{ fileBasenameNoExtension }}'
