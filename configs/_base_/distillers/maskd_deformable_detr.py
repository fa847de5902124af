"""MasKD for Deformable DETR on the three maps of the backbone; constants of the second author's config (Gumpest/MasKD).

Of how the released tokens were learned, only the length is published: 9000 is 1.2 epochs of COCO.
"""

# fits: pair deformable detr
distillers = dict(
    maskd=dict(
        type='MasKD', student_tap='backbone', loss_weight=140.0, student_mask_from=9000, learn=dict(max_iters=10000)
    )
)
