"""CWD for SegFormer: CIRKD's run, a tenth of the weights for convolutional networks (`train_cwd.sh`).

Its features are the fused map before the head's dropout.
"""

# fits: teacher segformer b4, student b0
_base_ = './cwd_seg_both.py'
distillers = dict(cwd=dict(loss_weight=0.3), cwd_feature=dict(student_tap='decode_head.fusion_conv', loss_weight=5.0))
