_base_ = ['../control/retinanet_x101_to_r50_coco_mgd.py', '../_base_/distillers/mgd_det.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/mgd/{{ fileBasenameNoExtension }}'
