"""PCD on coco_mini, 126 images: queues of 16 random pixels of each of 32 pictures."""

# fits: data coco mini
_base_ = './pcd_det.py'
distillers = dict(pcd=dict(queue_size=512))
