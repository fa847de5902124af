_base_ = './r18_from_mocov3-r50_imagenet.py'
model = dict(distillers=dict(pcd=dict(attention=None)))
work_dir = 'work_dirs/pcd/{{ fileBasenameNoExtension }}'
