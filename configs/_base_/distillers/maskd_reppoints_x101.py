"""MasKD for RepPoints taught by a deformable ResNeXt-101; constants of the authors' config."""

# fits: teacher reppoints x101
distillers = dict(
    maskd=dict(type='MasKD', loss_weight=10.0, student_mask_from=5000),
    points=dict(
        type='HeadOutputKD',
        student_tap=[('bbox_head.reppoints_pts_refine_out', 0.2), ('bbox_head.reppoints_pts_init_out', 0.1)],
        form='smooth_l1',
        beta=0.11,
    ),
)
