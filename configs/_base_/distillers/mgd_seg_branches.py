"""MGD for students whose backbone has no four stages, on the automatic taps: docs/auto_taps.md."""

# fits: seg, student pidnet|ddrnet|bisenetv2|mobilenetv3
_base_ = './mgd_seg.py'
distillers = dict(mgd=dict(student_tap='auto'))
