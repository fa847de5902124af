"""PCD of one mean a picture in place of its pixels."""

_base_ = '../../configs/pcd/mobilenetv2w05_from_mobilenetv2_small.py'
model = dict(distillers=dict(pcd=dict(vectors=True, attention=None)))
work_dir = 'work_dirs/pcd/{{ fileBasenameNoExtension }}'
