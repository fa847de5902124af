_base_ = '../maskd/reppoints_x101_to_r50_coco.py'
model = dict(distillers=dict(_delete_=True))
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'  # the maskd leaf of that name has its own
