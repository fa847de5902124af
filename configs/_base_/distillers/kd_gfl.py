"""Logit distillation of GFL's class scores, a sigmoid each; our own choice, nothing is published."""

# fits: pair gfl
distillers = dict(kd=dict(type='LogitKD', student_tap='bbox_head.gfl_cls', activation='sigmoid'))
