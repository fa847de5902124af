"""PCD with MoCo v3's ViT: its map of 14 x 14 patches is averaged to the student's 7 x 7, as in PCD's code."""

# fits: pretrain, teacher mocov3-vitb16
_base_ = './pcd_pretrain.py'
distillers = dict(pcd=dict(resize='teacher'))
