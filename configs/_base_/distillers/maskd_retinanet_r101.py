"""MasKD for RetinaNet taught by its ResNet-101; constants of the authors' config (hunto/MasKD)."""

# fits: teacher retinanet r101
distillers = dict(
    maskd=dict(type='MasKD', loss_weight=7.0, student_mask_from=7000),
    regression=dict(type='HeadOutputKD', student_tap='bbox_head.retina_reg', form='l1'),
)
