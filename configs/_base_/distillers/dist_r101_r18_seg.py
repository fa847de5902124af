"""DIST as released for ResNet students (hunto/DIST_KD): the auxiliary head is distilled too, with its loss's 0.4."""

# fits: seg, teacher r101, student r18
_base_ = './dist_seg.py'
distillers = dict(dist=dict(student_tap=['decode_head.conv_seg', ('auxiliary_head.conv_seg', 0.4)]))
