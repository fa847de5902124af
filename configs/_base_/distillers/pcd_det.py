"""PCD inside supervised detection, COCO: on every level of the neck, a head and a queue each.

The neck's maps have both signs, unlike the backbone's behind its ReLU. The use and its constants are ours and untested.
"""

_base_ = './pcd_seg.py'
distillers = dict(pcd=dict(student_tap='neck', queue_size=16384))
