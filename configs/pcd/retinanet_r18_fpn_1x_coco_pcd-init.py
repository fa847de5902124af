_base_ = [
    '../_base_/models/retinanet_r18_fpn_pcd.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/sgd_1x.py',
    '../_base_/runtime_det.py',
]
optim_wrapper = dict(optimizer=dict(lr=0.01))  # mmdet's for RetinaNet
work_dir = 'work_dirs/pcd/{{ fileBasenameNoExtension }}'
