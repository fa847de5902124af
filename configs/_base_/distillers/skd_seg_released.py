"""SKD with the nodes and weights of the authors' script (`run_train_val.sh`), without its discriminator (weight 0.1).

Their pixel-wise loss has weight 10 and sums over the 8 images of their batch: 80 for the mean.
"""

# fits: seg, variant released
distillers = dict(kd=dict(type='LogitKD', loss_weight=80.0), skd=dict(type='SKD', pool_scale=0.5, loss_weight=0.5))
