_base_ = './retinanet_x101_to_r50_coco.py'
model = dict(inherit=[('neck', 'neck'), ('bbox_head', 'bbox_head')])
work_dir = 'work_dirs/mgd/{{ fileBasenameNoExtension }}'
