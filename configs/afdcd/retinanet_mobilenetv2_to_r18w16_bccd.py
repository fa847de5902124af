_base_ = [
    '../_base_/pairs/retinanet_mobilenetv2_to_r18w16_bccd.py',
    '../_base_/datasets/bccd.py',
    '../_base_/schedules/adamw_6e.py',
    '../_base_/runtime_det.py',
    '../_base_/distillers/afdcd_retinanet.py',
]
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/afdcd/{{ fileBasenameNoExtension }}'  # the maskd leaf of that name has its own
