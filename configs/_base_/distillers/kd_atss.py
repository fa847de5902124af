"""Logit distillation of ATSS's class scores, a sigmoid each; our own choice, nothing is published."""

# fits: pair atss
distillers = dict(kd=dict(type='LogitKD', student_tap='bbox_head.atss_cls', activation='sigmoid'))
