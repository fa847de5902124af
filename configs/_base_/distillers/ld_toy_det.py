"""LD for the generated data: the published constants; 8 of its pictures hold as many objects as 2 or 3 of COCO."""

# fits: det, pair toy
_base_ = './ld_gfl.py'
