"""LD for GFL: main and valuable region and class scores at the positives; the authors' constants (HikariTJU/LD).

The sums are over a process's pictures: the constants belong to 2 pictures a GPU for ResNet-50. 8 of the generated
pictures hold as many objects.
"""

# fits: det, pair gfl|toy
distillers = dict(ld=dict(type='LD', temperature=10.0, main_weight=0.25, valuable_weight=0.25, class_weight=10.0))
