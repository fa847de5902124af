"""PCD beside the labels for any detector: pixels as keys on every level of the neck, with a weight that falls to 0.

The settings with which it gains most on BCCD (docs/results.md); on larger data they are untested. Each level has a head
and a queue of 16 random pixels of each of 256 pictures: for data of 768 pictures or more. The neck's maps have both
signs, unlike the backbone's behind its ReLU. Variant `pooled`: one key a picture.
"""

# fits: det
_base_ = './pcd_seg.py'
distillers = dict(pcd=dict(student_tap='neck', keys_per_image=16, loss_weight=1.0))
