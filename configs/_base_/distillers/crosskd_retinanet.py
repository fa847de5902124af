"""CrossKD on RetinaNet's head; the constants of the authors' configs (jbwang1997/CrossKD)."""

# fits: pair retinanet
distillers = dict(crosskd=dict(type='CrossKD', reuse_from=3, box_weight=1.0))
