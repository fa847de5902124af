"""Logit distillation on the generated data, whose pair has GFL's head."""

_base_ = './kd_gfl.py'
