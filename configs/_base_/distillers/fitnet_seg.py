"""FitNet on the features before the class scores, with logit distillation: CIRKD's run (`train_fitnet.sh`)."""

# fits: seg
distillers = dict(
    kd=dict(type='LogitKD', loss_weight=1.0),
    fitnet=dict(type='FitNet', student_tap='decode_head.conv_seg:input', loss_weight=10.0),
)
