_base_ = './fcos_r101_to_r50_coco.py'
model = dict(inherit=[('neck', 'neck'), ('bbox_head', 'bbox_head')])
work_dir = 'work_dirs/fgd/{{ fileBasenameNoExtension }}'
