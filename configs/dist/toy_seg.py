_base_ = ['../control/toy_seg.py', '../_base_/distillers/dist_seg.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/dist/{{ fileBasenameNoExtension }}'
