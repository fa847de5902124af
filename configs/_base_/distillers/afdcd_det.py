"""Af-DCD on the first three levels of an FPN, their mean; our own choice, nothing is published for detection.

They are P3 to P5, and P2 to P4 in two-stage detectors. The mimicking has the published Cityscapes weight, converted
to a mean. Pooling by 2, because the maps are small.
"""

# fits: det
distillers = dict(
    afdcd=dict(type='AfDCD', student_tap=[('neck[:3]', 1 / 3)], fd_weight=33.0, fd_reduction='mean', pool_size=2)
)
