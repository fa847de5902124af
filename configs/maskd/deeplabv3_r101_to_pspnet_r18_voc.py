_base_ = [
    '../_base_/pairs/deeplabv3_r101_to_pspnet_r18_voc.py',
    '../_base_/datasets/voc12aug_512x512.py',
    '../_base_/schedules/maskd_40k.py',
    '../_base_/runtime_seg.py',
    '../_base_/distillers/maskd_seg.py',
]
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/maskd/{{ fileBasenameNoExtension }}'  # the afdcd leaf of that name has its own
