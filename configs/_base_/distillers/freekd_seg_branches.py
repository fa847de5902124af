"""FreeKD for students whose backbone has no four stages, on the automatic taps: docs/auto_taps.md."""

# fits: seg, student pidnet|ddrnet|bisenetv2|mobilenetv3
_base_ = './freekd_seg.py'
distillers = dict(freekd=dict(student_tap='auto'))
