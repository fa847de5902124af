_base_ = [
    '../_base_/pairs/retinanet_mobilenetv2_to_r18w16_nuclei.py',
    '../_base_/datasets/nuclei_detection.py',
    '../_base_/schedules/adamw_6e.py',
    '../_base_/runtime_det.py',
    '../_base_/distillers/maskd_retinanet_small.py',
]
model = dict(distillers=_base_.distillers)
