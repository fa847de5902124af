"""CWD on the features before the class scores: temperature 4 and weight 50 of CIRKD's run of CWD (`train_cwd.sh`).

The place is that of the authors' code and of CIRKD's. Theirs has batch norm and a ReLU behind the alignment, CIRKD's
and ours has not.
"""

# fits: seg, variant feature
distillers = dict(cwd=dict(type='CWD', student_tap='decode_head.conv_seg:input', loss_weight=50.0))
