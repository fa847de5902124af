"""MasKD for Deformable DETR on the three maps of the backbone; constants of the second author's config (Gumpest/MasKD).

Of how the released tokens were learned, only the length is published: 9000 is 1.2 epochs of COCO. In that config alone
the student's optimizer also trains the tokens, by the distillation loss; here they stay as learned.
"""

# fits: pair deformable detr
distillers = dict(
    maskd=dict(
        type='MasKD', student_tap='backbone', loss_weight=140.0, student_mask_from=9000, learn=dict(max_iters=10000)
    )
)
