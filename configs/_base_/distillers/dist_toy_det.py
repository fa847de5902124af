"""DIST on the generated data, whose pair has GFL's head."""

_base_ = './dist_gfl.py'
