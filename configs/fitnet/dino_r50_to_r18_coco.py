_base_ = ['../control/dino_r50_to_r18_coco.py', '../_base_/distillers/fitnet_det.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/fitnet/{{ fileBasenameNoExtension }}'
