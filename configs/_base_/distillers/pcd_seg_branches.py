"""PCD beside the labels for students whose backbone has no four stages, on the automatic taps: docs/auto_taps.md."""

# fits: seg, student pidnet|ddrnet|bisenetv2|mobilenetv3
_base_ = './pcd_seg.py'
distillers = dict(pcd=dict(student_tap='auto'))
