"""CrossKD on GFL's head; the constants of the authors' configs (jbwang1997/CrossKD)."""

# fits: pair gfl
distillers = dict(crosskd=dict(type='CrossKD', reuse_from=3, box_weight=4.0))
