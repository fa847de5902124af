"""SKD, pixel-wise and pair-wise: CIRKD's run on Cityscapes (`train_skd.sh`).

Without the holistic part, a discriminator on the class scores (weight 0.001 there).
"""

# fits: seg
distillers = dict(kd=dict(type='LogitKD', loss_weight=1.0), skd=dict(type='SKD', loss_weight=10.0))
