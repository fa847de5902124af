"""PCD on BCCD, 205 images: queues of 16 random pixels of each of 64 pictures, less than a third."""

# fits: data bccd
_base_ = './pcd_det.py'
distillers = dict(pcd=dict(queue_size=1024))
