"""FRS for RetinaNet: neck and class scores, the weights and warm-up of the authors' code (duzhixing/FRS)."""

# fits: teacher retinanet
distillers = dict(frs=dict(type='FRS', feature_weight=0.005, class_weight=0.02, schedule=dict(warmup=500)))
