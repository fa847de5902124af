"""CIRKD on ADE20K and COCO-Stuff: the defaults (`train_cirkd`), but for the queue of pixels.

20000 pixels for each of 150 classes are 6 GB, on the device and in each checkpoint. A step compares with 28 of them a
class, so 2000 are ours, the released size for SegFormer.
"""

# fits: data ade20k|cocostuff
_base_ = './cirkd_seg.py'
distillers = dict(cirkd=dict(pixel_memory=2000))
