"""MasKD for Faster R-CNN taught by Cascade Mask R-CNN, at its first stage; constants of the authors' config.

The weight decay of the tokens is the published one, a hundred times that of the other pairs.
"""

# fits: teacher faster rcnn cascade mask x101
distillers = dict(
    maskd=dict(
        type='MasKD', student_mask_from=5000, learn=dict(optimizer=dict(type='Adam', lr=0.01, weight_decay=0.1))
    ),
    regression=dict(type='RoIHeadKD'),
)
