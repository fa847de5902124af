"""QueueKL and SimReg, which compare vectors, on their own taps: docs/settings.md."""

_base_ = './distiller.py'
