# method: maskd
_base_ = [
    '../pairs/deeplabv3_r101_to_mobilenetv2_cityscapes.py',
    '../datasets/cityscapes_512x1024.py',
    '../schedules/maskd_40k.py',
    '../runtime_seg.py',
]
optim_wrapper = dict(optimizer=dict(weight_decay=2e-4))
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
