"""KD-DETR for DINO, with the options for DAB-DETR."""

# fits: pair dino
_base_ = './kddetr_dab.py'
