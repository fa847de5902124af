_base_ = './retinanet_r101_to_mobilenetv2_coco.py'
model = dict(inherit=[('bbox_head', 'bbox_head')])
work_dir = 'work_dirs/maskd/{{ fileBasenameNoExtension }}'
