_base_ = [
    '../_base_/pairs/deeplabv3_r101_to_r18_camvid.py',
    '../_base_/datasets/camvid_360x360.py',
    '../_base_/schedules/afdcd_40k.py',
    '../_base_/runtime_seg.py',
]
# The pair's own options on the teacher's network; without distillers a DistillModel is the plain network.
model = dict(student=dict(cfg='mmseg::deeplabv3/deeplabv3_r101-d8_4xb2-80k_cityscapes-512x1024.py'))
