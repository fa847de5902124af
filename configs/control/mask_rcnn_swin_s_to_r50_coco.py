_base_ = [
    '../_base_/pairs/mask_rcnn_swin_s_to_r50_coco.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/sgd_2x.py',
    '../_base_/runtime_det.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
