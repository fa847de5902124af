_base_ = './r18_from_mocov3-r50_imagenet.py'
distillers = dict(pcd=dict(attention=None))
model = dict(distillers=distillers)
work_dir = 'work_dirs/pcd/{{ fileBasenameNoExtension }}'
