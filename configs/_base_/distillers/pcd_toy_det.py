"""PCD with pooled keys on generated data, 1600 images: a queue that holds less than a third of the training images."""

# fits: det, pair toy
_base_ = './pcd_det_pooled.py'
distillers = dict(pcd=dict(queue_size=512))
