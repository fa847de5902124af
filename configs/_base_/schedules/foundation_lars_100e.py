"""LARS in place of AdamW, for lightly-train's second method (FitNet with two taps). Its rate is 9.0 for 1536 images,
so 2.6 for 128.

Its first method (QueueKL) has 1.8 for 1536 images: lr=0.52 for 128.
"""

_base_ = './foundation_100e.py'
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='mmdistill_dense.LARS', lr=2.6, momentum=0.9, weight_decay=1e-6, eta=1e-3)
)
