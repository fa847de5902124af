"""FitNet on the last stage of the backbone, with the weight of CIRKD's run (`train_fitnet.sh`).

That run compares the input of the last convolution, `decode_head.conv_seg:input`, and distils class scores beside.
"""

distillers = dict(fitnet=dict(type='FitNet', student_tap='backbone[3]', loss_weight=10.0))
