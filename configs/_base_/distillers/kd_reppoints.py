"""Logit distillation of RepPoints's class scores, a sigmoid each; our own choice, nothing is published."""

# fits: pair reppoints
distillers = dict(kd=dict(type='LogitKD', student_tap='bbox_head.reppoints_cls_out', activation='sigmoid'))
