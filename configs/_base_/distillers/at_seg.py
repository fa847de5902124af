"""AT on the features before the class scores, with logit distillation: CIRKD's run of AT on Cityscapes (`train_at.sh`).

Its weight of 1e4 goes with a mean over the 64 x 128 positions of a 512 x 1024 crop. Here it does not depend on
the map's size: the same on Cityscapes, and no larger on smaller crops.
"""

# fits: seg
distillers = dict(
    kd=dict(type='LogitKD', loss_weight=1.0),
    at=dict(type='AT', student_tap='decode_head.conv_seg:input', reduction='sum', loss_weight=1e4 / (64 * 128)),
)
