"""DIST on RTMDet's class scores, whose head has a layer for each level; constants as for RetinaNet, untested."""

# fits: pair rtmdet
distillers = dict(
    dist=dict(type='DIST', student_tap=[f'bbox_head.rtm_cls.{level}' for level in range(3)], activation='sigmoid')
)
