"""PCD on VOC + aug: a queue that holds less than a third of the training images."""

_base_ = './pcd_seg.py'
distillers = dict(pcd=dict(queue_size=2048))
