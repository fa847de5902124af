_base_ = ['../control/gfl_mobilenetv2_to_r18w16_bccd.py', '../_base_/distillers/dist_gfl.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/dist/{{ fileBasenameNoExtension }}'
