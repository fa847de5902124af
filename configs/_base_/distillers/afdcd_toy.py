"""Af-DCD with logit KD for the generated data: the weights of the small CamVid pair."""

_base_ = './afdcd_camvid_small.py'
