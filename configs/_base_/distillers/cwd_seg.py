"""CWD on class scores: temperature 4 and weight 3 of the authors' Cityscapes script (TorchDistiller, `exp_cwd.sh`)."""

# fits: seg
distillers = dict(cwd=dict(type='CWD', loss_weight=3.0))
