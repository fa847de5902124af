"""DIST on a box head's class scores on the student's RoIs; constants of the released config (hunto/MasKD, mmrazor).

A cascade teacher is asked at its first stage, as there.
"""

# fits: pair rcnn
distillers = dict(dist=dict(type='RoIHeadKD', student_tap='roi_head.bbox_head.fc_cls', output='cls_score', form='dist'))
