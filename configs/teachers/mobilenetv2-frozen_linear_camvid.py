_base_ = [
    '../_base_/models/linear_mobilenetv2_camvid.py',
    '../_base_/datasets/camvid_180x240.py',
    '../_base_/schedules/camvid_800.py',
    '../_base_/runtime_seg.py',
]
optim_wrapper = dict(optimizer=dict(lr=1e-3))
