"""Af-DCD on P3 to P5 of an FPN, the mean of the three; our own choice, nothing is published for detection.

The mimicking has the published Cityscapes weight, converted to a mean. Pooling by 2, because the maps are small.
"""

# fits: det
distillers = dict(
    afdcd=dict(type='AfDCD', student_tap=[('neck[:3]', 1 / 3)], fd_weight=33.0, fd_reduction='mean', pool_size=2)
)
