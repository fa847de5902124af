"""FreeKD on the last stage of a segmentor's backbone: ours, no config for segmentation is public.

The tokens are learned as MasKD's.
"""

# fits: seg
distillers = dict(
    freekd=dict(
        type='FreeKD',
        student_tap='backbone[-1]',
        num_tokens=2,
        learn=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-3), schedule='poly'),
    )
)
