"""DIST on the generated data, whose pair has GFL's head."""

# fits: det, pair toy
_base_ = './dist_gfl.py'
