_base_ = [
    '../_base_/pairs/toy_det.py',
    '../_base_/datasets/shapes_det.py',
    '../_base_/schedules/toy_det_3e.py',
    '../_base_/runtime_det.py',
    '../_base_/distillers/maskd_toy_det.py',
]
model = dict(distillers=_base_.distillers)
