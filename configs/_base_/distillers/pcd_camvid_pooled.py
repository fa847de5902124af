"""PCD with pooled keys on CamVid, 367 images: a queue that holds less than a third of the training images."""

_base_ = './pcd_seg_pooled.py'
distillers = dict(pcd=dict(queue_size=96))
