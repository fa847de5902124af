"""PCD beside the labels with one pooled key a picture, on every level of the neck: a head and a queue each."""

# fits: det, variant pooled
_base_ = './pcd_seg_pooled.py'
distillers = dict(pcd=dict(student_tap='neck', queue_size=16384))
