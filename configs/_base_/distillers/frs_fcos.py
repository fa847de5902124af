"""FRS for FCOS: neck and class scores, the weights and warm-up of the authors' code (duzhixing/FRS)."""

# fits: teacher fcos
distillers = dict(frs=dict(type='FRS', feature_weight=0.01, class_weight=0.05, schedule=dict(warmup=500)))
