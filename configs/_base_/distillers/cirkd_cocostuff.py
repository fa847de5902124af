"""CIRKD on COCO-Stuff-164k: the defaults (`train_cirkd/coco_stuff_164k`), but for the queue of pixels, as on ADE20K."""

# fits: data cocostuff
_base_ = './cirkd_ade20k.py'
distillers = dict(cirkd=dict(pixel_memory=2000))
