"""Logit distillation of RTMDet's class scores, whose head has a layer for each level; our own choice."""

# fits: pair rtmdet
distillers = dict(
    kd=dict(type='LogitKD', student_tap=[f'bbox_head.rtm_cls.{level}' for level in range(3)], activation='sigmoid')
)
