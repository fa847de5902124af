_base_ = [
    '../pairs/dab_detr_r50_to_r18_coco.py',
    '../datasets/coco_detr.py',
    '../schedules/detr_12e.py',
    '../runtime_det.py',
]
param_scheduler = [dict(type='MultiStepLR', begin=0, end=50, by_epoch=True, milestones=[40], gamma=0.1)]  # as mmdet
train_cfg = dict(max_epochs=50)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
