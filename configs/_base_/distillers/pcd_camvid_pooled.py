"""PCD with pooled keys on CamVid, 367 images: a queue that holds less than a third of the training images."""

# fits: data camvid, variant pooled
_base_ = './pcd_seg_pooled.py'
distillers = dict(pcd=dict(queue_size=96))
