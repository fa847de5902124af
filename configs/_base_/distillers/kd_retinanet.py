"""Logit distillation of RetinaNet's class scores, a sigmoid each; our own choice, nothing is published."""

# fits: pair retinanet
distillers = dict(kd=dict(type='LogitKD', student_tap='bbox_head.retina_cls', activation='sigmoid'))
