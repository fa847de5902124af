"""PCD for a thousand images and a teacher without a head: small queue, narrow head, the same crop in both networks."""

# fits: pretrain, teacher mobilenetv2
_base_ = './pcd_pretrain.py'
distillers = dict(pcd=dict(queue_size=256, head=dict(hidden=512), view_pairing='same'))
