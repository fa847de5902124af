"""PCD on nuclei, 267 images: queues of 16 random pixels of each of 80 pictures, less than a third."""

# fits: data nuclei
_base_ = './pcd_det.py'
distillers = dict(pcd=dict(queue_size=1280))
