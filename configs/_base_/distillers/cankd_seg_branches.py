"""CanKD for students whose backbone has no four stages, on the automatic taps: docs/auto_taps.md."""

# fits: seg, student pidnet|ddrnet|bisenetv2|mobilenetv3
_base_ = './cankd_seg.py'
distillers = dict(cankd=dict(student_tap='auto'))
