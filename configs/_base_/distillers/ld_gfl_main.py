"""LD for GFL in the main region alone, as in mmdet's own configs and the first rows of the paper."""

# fits: pair gfl, variant main
distillers = dict(ld=dict(type='LD', temperature=10.0, main_weight=0.25, valuable_weight=0.0, class_weight=0.0))
