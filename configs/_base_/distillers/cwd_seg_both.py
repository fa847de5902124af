"""CWD on class scores and on the features before them, with logit distillation: CIRKD's run of CWD on Cityscapes.

Weights of winycg/CIRKD's `train_cwd.sh`, without its discriminator on the class scores (weight 0.001).
"""

# fits: seg, variant both
distillers = dict(
    kd=dict(type='LogitKD', loss_weight=1.0),
    cwd=dict(type='CWD', loss_weight=3.0),
    cwd_feature=dict(type='CWD', student_tap='decode_head.conv_seg:input', loss_weight=50.0),
)
