_base_ = './retinanet_mobilenetv2_to_r18w16_bccd.py'
model = dict(inherit=[('bbox_head', 'bbox_head')])
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
