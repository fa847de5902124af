"""Logit distillation of a box head's class scores on the student's RoIs; our own choice, nothing is published."""

# fits: pair rcnn
distillers = dict(
    kd=dict(type='RoIHeadKD', student_tap='roi_head.bbox_head.fc_cls', output='cls_score', form='softmax')
)
