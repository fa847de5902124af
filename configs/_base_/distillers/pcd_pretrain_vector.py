"""PCD's ablation at the level of vectors: one mean a picture in place of its pixels, and so no attention."""

# fits: pretrain, variant vector
_base_ = './pcd_pretrain.py'
distillers = dict(pcd=dict(vectors=True, attention=None))
