"""MasKD on Cityscapes for students without an auxiliary head."""

_base_ = './maskd_cityscapes.py'
distillers = dict(maskd=dict(student_tap='decode_head.conv_seg', share_tokens=False))
