"""CIRKD on CamVid: the released scripts leave everything at its default (`train_cirkd/camvid`), as on Cityscapes."""

# fits: data camvid
_base_ = './cirkd_cityscapes.py'
