_base_ = ['../control/toy_det.py', '../_base_/distillers/dist_toy_det.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/dist/{{ fileBasenameNoExtension }}'
