"""Logit distillation of GFL's class scores, each a yes or no; our own choice, nothing is published."""

# fits: pair gfl
distillers = dict(kd=dict(type='LogitKD', student_tap='bbox_head.gfl_cls', activation='sigmoid'))
