"""What shows a distilled run while it goes on."""

from mmdistill_dense import _stack  # noqa: F401  (first: a missing stack is explained)
from mmdistill_dense.monitor.hook import MonitorHook

__all__ = ['MonitorHook']
