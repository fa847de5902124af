"""CrossKD on FCOS's head, two convolutions deep; the constants of the authors' config (jbwang1997/CrossKD)."""

# fits: pair fcos
distillers = dict(crosskd=dict(type='CrossKD', reuse_from=2, class_weight=0.4, box_weight=0.75))
