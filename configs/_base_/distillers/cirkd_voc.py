"""CIRKD on PASCAL VOC 2012: the memory parts have a tenth of their default weights (`train_cirkd/voc`).

The scripts lacked this at first, and CIRKD then was below the student alone (winycg/CIRKD, issue 8).
"""

# fits: data voc
_base_ = './cirkd_seg.py'
distillers = dict(cirkd=dict(pixel_weight=0.01, region_weight=0.01))
