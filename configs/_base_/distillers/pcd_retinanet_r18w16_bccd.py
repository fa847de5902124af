"""PCD beside the labels for the small RetinaNet pair on BCCD, pooled keys, three times their weight for any detector.

With 0.1 it has 9 % of the gradient at the student's backbone. AP on val with seed 13: 52.4 with 0.1, 53.2 with 0.3,
52.6 with 1.0, 50.3 without a teacher.
"""

# fits: pair retinanet, student r18w16, data bccd
_base_ = './pcd_det_pooled.py'
distillers = dict(pcd=dict(queue_size=64, loss_weight=0.3))
