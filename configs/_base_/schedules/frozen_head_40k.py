"""The same for larger heads on a frozen network, with a lower rate; norms and biases do not decay (ours)."""

_base_ = './linear_head_40k.py'
optim_wrapper = dict(
    optimizer=dict(lr=2e-4, weight_decay=0.05), paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0)
)
