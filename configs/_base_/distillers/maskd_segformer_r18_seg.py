"""MasKD for students with an auxiliary head whose teacher, SegFormer, has none: the main class scores alone."""

# fits: seg, teacher segformer, student r18
_base_ = './maskd_seg.py'
distillers = dict(maskd=dict(student_tap='decode_head.conv_seg'))
