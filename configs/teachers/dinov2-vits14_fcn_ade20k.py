_base_ = [
    '../_base_/models/vit_fcn.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/frozen_head_40k.py',
    '../_base_/runtime_seg.py',
]
