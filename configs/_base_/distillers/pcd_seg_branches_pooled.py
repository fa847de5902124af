"""PCD with one pooled key a picture, for students whose backbone has no four stages: docs/auto_taps.md."""

# fits: seg, student pidnet|ddrnet|bisenetv2|mobilenetv3, variant pooled
_base_ = './pcd_seg_pooled.py'
distillers = dict(pcd=dict(student_tap='auto'))
