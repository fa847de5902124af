"""Logit distillation of FCOS's class scores, a sigmoid each; our own choice, nothing is published."""

# fits: pair fcos
distillers = dict(kd=dict(type='LogitKD', student_tap='bbox_head.conv_cls', activation='sigmoid'))
