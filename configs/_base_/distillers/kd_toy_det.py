"""Logit distillation on the generated data, whose pair has GFL's head."""

# fits: det, pair toy
_base_ = './kd_gfl.py'
