"""MasKD beside DIST on the class scores, for a student that starts from the neck of its teacher."""

_base_ = './maskd_faster_rcnn_cascade_mask_x101.py'
distillers = dict(
    maskd=dict(student_mask_from=8500),
    scores=dict(type='RoIHeadKD', student_tap='roi_head.bbox_head.fc_cls', output='cls_score', form='dist'),
)
