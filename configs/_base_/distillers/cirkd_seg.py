"""CIRKD with logit distillation: the defaults of the released code (winycg/CIRKD, `train_cirkd.py`).

The released scripts for Cityscapes and CamVid leave everything at them (`train_cirkd/citys`, `train_cirkd/camvid`). Its
minibatch is the pictures of one GPU, 2 of 16.
"""

# fits: seg
distillers = dict(
    kd=dict(type='LogitKD', loss_weight=1.0),
    cirkd=dict(type='CIRKD', minibatch_weight=1.0, pixel_weight=0.1, region_weight=0.1, gather=False),
)
