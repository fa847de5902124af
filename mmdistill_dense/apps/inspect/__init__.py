"""Diagnostics for users: gradients, agreement, similarity, masks, cost, and the monitor of a run."""

from mmdistill_dense.utils import required  # first: a missing stack is explained

# isort: split
from mmdistill_dense.apps.inspect.monitor import MonitorHook

__all__ = ['MonitorHook']
