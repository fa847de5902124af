"""LARS in place of the AdamW of `foundation_100e`, for lightly-train's second method (FitNet with two taps).

Its rate is 9.0 for 1536 images, so 2.6 for 128. Its first method (QueueKL) has 1.8 for 1536 images: lr=0.52 for 128.
"""

_base_ = './pcd_100e.py'
optim_wrapper = dict(optimizer=dict(lr=2.6, weight_decay=1e-6), clip_grad=dict(max_norm=1.0))
auto_scale_lr = dict(enable=False, base_batch_size=128)
