_base_ = ['../control/toy_det.py', '../_base_/distillers/kd_toy_det.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/kd/{{ fileBasenameNoExtension }}'
