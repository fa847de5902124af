_base_ = [
    '../_base_/pairs/deeplabv3_r101_to_mobilenetv2_cityscapes.py',
    '../_base_/datasets/cityscapes_512x1024.py',
    '../_base_/schedules/maskd_40k.py',
    '../_base_/runtime_seg.py',
    '../_base_/distillers/maskd_cityscapes_main.py',
]
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/maskd/{{ fileBasenameNoExtension }}'  # the afdcd leaf of that name has its own
optim_wrapper = dict(optimizer=dict(weight_decay=2e-4))
