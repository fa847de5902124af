"""GFL on a ResNet-18 of a quarter of the width, from random weights."""

_base_ = [
    '../../configs/_base_/models/gfl_r18w16_fpn64.py',
    '../../configs/_base_/datasets/nuclei_detection.py',
    '../../configs/_base_/schedules/adamw_12e.py',
    '../../configs/_base_/runtime_det.py',
]
