"""MasKD for the generated data: the published method, with a warm-up of one epoch and a tenth of the learning."""

# fits: det, pair toy
distillers = dict(
    maskd=dict(type='MasKD', loss_weight=2.0, student_mask_from=200, learn=dict(max_iters=200, save_interval=100))
)
