"""FRS for GFL: neck and class scores, the weights and warm-up of the authors' code (duzhixing/FRS)."""

# fits: pair gfl
distillers = dict(frs=dict(type='FRS', feature_weight=0.1, class_weight=0.05, schedule=dict(warmup=500)))
