"""MasKD for FCOS taught by its ResNet-101, features alone; constants of the authors' config."""

# fits: teacher fcos r101
distillers = dict(
    maskd=dict(
        type='MasKD', loss_weight=10.0, student_mask_from=5000, learn=dict(clip_grad=dict(max_norm=35, norm_type=2))
    )
)
