"""PSPNet, ResNet-101 to ResNet-18, trained four times as long: how far plain distillation gets with time."""

# pair: pspnet_r101_to_pspnet_r18_cityscapes_320k
_base_ = [
    '../pairs/pspnet_r101_to_pspnet_r18_cityscapes.py',
    '../datasets/cityscapes_512x1024_stock.py',
    '../schedules/sgd_320k.py',
    '../runtime_seg.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
