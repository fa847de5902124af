"""CWD between PSPNets on Cityscapes: weight 5 at temperature 1, as in mmrazor and mmsegmentation-distiller."""

# fits: teacher pspnet r101, student pspnet r18, data cityscapes
distillers = dict(cwd=dict(type='CWD', temperature=1.0, loss_weight=5.0))
