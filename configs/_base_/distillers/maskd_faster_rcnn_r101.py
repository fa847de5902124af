"""MasKD for Faster R-CNN taught by its ResNet-101; constants of the authors' config. 7330 is one epoch of COCO.

This teacher's tokens alone were learned by SGD.
"""

# fits: teacher faster rcnn r101
distillers = dict(
    maskd=dict(
        type='MasKD',
        student_mask_from=7330,
        learn=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4)),
    ),
    regression=dict(type='RoIHeadKD'),
)
