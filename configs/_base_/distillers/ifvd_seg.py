"""IFVD with logit distillation: CIRKD's run on Cityscapes (`train_ifvd.sh`).

Without the script's discriminator on the class scores (weight 0.001).
"""

# fits: seg
distillers = dict(kd=dict(type='LogitKD', loss_weight=1.0), ifvd=dict(type='IFVD', loss_weight=20.0))
