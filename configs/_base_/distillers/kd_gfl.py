"""Logit distillation of GFL's class scores, a sigmoid each; our own choice, nothing is published."""

# fits: det, pair gfl|toy
distillers = dict(kd=dict(type='LogitKD', student_tap='bbox_head.gfl_cls', activation='sigmoid'))
