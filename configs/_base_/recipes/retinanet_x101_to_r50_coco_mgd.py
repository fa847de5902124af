# method: mgd
_base_ = [
    '../pairs/retinanet_x101_to_r50_coco.py',
    '../datasets/coco_detection.py',
    '../schedules/dense_2x.py',
    '../runtime_det.py',
]
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))  # as MGD trains
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
