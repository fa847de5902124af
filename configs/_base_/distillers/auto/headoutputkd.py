"""HeadOutputKD on its own taps: docs/settings.md."""

_base_ = './distiller.py'
