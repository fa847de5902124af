_base_ = [
    '../_base_/pairs/pspnet_r101_to_pspnet_r18_cityscapes.py',
    '../_base_/datasets/cityscapes_512x1024_stock.py',
    '../_base_/schedules/sgd_80k.py',
    '../_base_/runtime_seg.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
