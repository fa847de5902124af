"""MGD on any pair of segmentors: docs/settings.md."""

_base_ = './featuredistiller.py'
