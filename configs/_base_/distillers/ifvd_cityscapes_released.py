"""IFVD with the weights of the authors' script (`options.py`), without its discriminator (weight 0.001).

Their logit distillation has weight 10 and is a mean over the 19 classes too, where ours is their sum.
"""

# fits: data cityscapes, variant released
distillers = dict(kd=dict(type='LogitKD', loss_weight=10 / 19), ifvd=dict(type='IFVD', loss_weight=200.0))
