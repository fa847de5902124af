_base_ = ['../control/gfl_r101_to_r18_coco.py', '../_base_/distillers/at_det.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/at/{{ fileBasenameNoExtension }}'
