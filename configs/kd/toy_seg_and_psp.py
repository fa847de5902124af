_base_ = ['../control/toy_seg_and_psp.py', '../_base_/distillers/kd_toy_and_psp.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/kd/{{ fileBasenameNoExtension }}'
