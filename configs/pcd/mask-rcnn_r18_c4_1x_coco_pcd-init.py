_base_ = [
    '../_base_/models/mask_rcnn_r18_c4_pcd.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/sgd_1x.py',
    '../_base_/runtime_det.py',
]
work_dir = 'work_dirs/pcd/{{ fileBasenameNoExtension }}'
