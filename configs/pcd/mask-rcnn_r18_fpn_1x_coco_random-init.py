_base_ = './mask-rcnn_r18_fpn_1x_coco_pcd-init.py'
model = dict(student=dict(backbone=dict(init_cfg=None)))
work_dir = 'work_dirs/pcd/{{ fileBasenameNoExtension }}'
