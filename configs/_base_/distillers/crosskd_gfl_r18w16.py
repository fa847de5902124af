"""CrossKD on a small GFL, whose towers have two convolutions: behind the first."""

# fits: pair gfl, student r18w16
_base_ = './crosskd_gfl.py'
distillers = dict(crosskd=dict(reuse_from=1))
