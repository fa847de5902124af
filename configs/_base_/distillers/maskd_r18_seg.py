"""MasKD for students with an auxiliary head: main and 0.4 times auxiliary logits share the main ones' tokens."""

# fits: seg, student r18
_base_ = './maskd_seg.py'
distillers = dict(maskd=dict(student_tap=['decode_head.conv_seg', ('auxiliary_head.conv_seg', 0.4)], share_tokens=True))
