"""Af-DCD with logit KD for segmentation at large; our own choice.

The mimicking has the published Cityscapes weight, freed from the map's size (2e-6 times 2048 x 64 x 128 is 33).
"""

distillers = dict(
    kd=dict(type='LogitKD', loss_weight=1.0),
    afdcd=dict(type='AfDCD', fd_weight=33.0, fd_reduction='mean', ctr_weight=0.005),
)
