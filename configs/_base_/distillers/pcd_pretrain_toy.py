"""PCD on generated shapes; the teacher's map comes out of a ReLU, hence center."""

# fits: pretrain, pair toy
_base_ = './pcd_pretrain.py'
distillers = dict(
    pcd=dict(queue_size=256, head=dict(hidden=128), attention=dict(num_heads=4), view_pairing='same', center=True)
)
