"""Logit distillation of a box head's class scores and a mask head's masks; our own choice, nothing is published."""

# fits: pair mask rcnn, variant masks
_base_ = './kd_rcnn.py'
distillers = dict(
    kd_masks=dict(type='RoIHeadKD', student_tap='roi_head.mask_head.conv_logits', output='mask_preds', form='sigmoid')
)
