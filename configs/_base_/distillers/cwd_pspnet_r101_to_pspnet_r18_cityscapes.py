"""CWD between PSPNets on Cityscapes: weight 5 at temperature 1, as in mmrazor and mmsegmentation-distiller."""

distillers = dict(cwd=dict(type='CWD', temperature=1.0, loss_weight=5.0))
