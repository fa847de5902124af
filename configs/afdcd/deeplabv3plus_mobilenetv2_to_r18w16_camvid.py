_base_ = [
    '../_base_/recipes/deeplabv3plus_mobilenetv2_to_r18w16_camvid.py',
    '../_base_/distillers/afdcd_r18w16_camvid.py',
]
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/afdcd/{{ fileBasenameNoExtension }}'
