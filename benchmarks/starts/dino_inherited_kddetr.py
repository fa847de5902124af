"""dino_inherited.py, taught by KD-DETR."""

_base_ = ['./dino_inherited.py', '../../configs/_base_/distillers/kddetr_dab.py']
model = dict(distillers=_base_.distillers)
