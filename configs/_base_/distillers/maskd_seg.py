"""MasKD on class scores.

Constants of the authors' Cityscapes config, with the short learning of 2000 iterations: it is flat after 1000.
"""

# fits: seg
distillers = dict(
    maskd=dict(
        type='MasKD',
        student_tap='decode_head.conv_seg',
        num_tokens=8,
        weight_mask=False,
        share_tokens=False,
        align='none',
        factor=0.5,
        eps=1e-5,
        learn=dict(
            max_iters=2000,
            optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-3),
            schedule='poly',
        ),
    )
)
