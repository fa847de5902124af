"""PCD with pooled keys on BCCD, 205 images: a queue that holds less than a third of the training images."""

# fits: data bccd, variant pooled
_base_ = './pcd_det_pooled.py'
distillers = dict(pcd=dict(queue_size=64))
