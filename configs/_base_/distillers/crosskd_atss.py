"""CrossKD on ATSS's head, with centreness; the constants of the authors' config (jbwang1997/CrossKD)."""

# fits: pair atss
distillers = dict(crosskd=dict(type='CrossKD', reuse_from=3, box_weight=1.0, centre_weight=1.0))
