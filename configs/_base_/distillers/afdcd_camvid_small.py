"""Af-DCD with logit KD for the small CamVid pair.

The weights of the released CamVid script, freed from the map's size: fd 8e-6 times 2048 x 45 x 45 is 33 on the mean. No
pooling: the map has 12 x 15 positions.
"""

distillers = dict(
    kd=dict(type='LogitKD', loss_weight=1.0),
    afdcd=dict(type='AfDCD', fd_weight=33.0, fd_reduction='mean', ctr_weight=0.01, pool_size=0),
)
