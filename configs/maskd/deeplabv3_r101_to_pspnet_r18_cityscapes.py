_base_ = [
    '../_base_/pairs/deeplabv3_r101_to_pspnet_r18_cityscapes.py',
    '../_base_/datasets/cityscapes_512x1024.py',
    '../_base_/schedules/maskd_40k.py',
    '../_base_/runtime_seg.py',
    '../_base_/distillers/maskd_cityscapes.py',
]
model = dict(distillers=_base_.distillers)
