"""CWD on GFL's class scores of every level: weight 5 at temperature 1, mmrazor's config (v0.3, cls head)."""

# fits: pair gfl
distillers = dict(cwd=dict(type='CWD', student_tap='bbox_head.gfl_cls', temperature=1.0, loss_weight=5.0))
