"""PCD as pre-training without the attention of its head, as its code has it."""

# fits: pretrain, variant without-attention
_base_ = './pcd_pretrain.py'
distillers = dict(pcd=dict(attention=None))
