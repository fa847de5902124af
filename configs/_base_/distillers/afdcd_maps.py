"""Af-DCD on the map of a foundation model, without logits; the mimicking as a mean of weight 1. Untested here.

The map is pooled where it has 16 tokens a side or more, as the published ones are.
"""

# fits: maps
distillers = dict(
    afdcd=dict(
        type='AfDCD',
        student_tap='backbone[-1]',
        teacher_tap='map',
        fd_weight=1.0,
        fd_reduction='mean',
        pool_size='auto',
    )
)
