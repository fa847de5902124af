_base_ = '../maskd/retinanet_r101_to_mobilenetv2_coco.py'
model = dict(distillers=dict(_delete_=True))
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'  # the maskd leaf of that name has its own
