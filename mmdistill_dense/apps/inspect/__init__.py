"""Diagnostics for users: gradients, agreement, similarity, masks, cost, and the monitor of a run."""

from typing import TYPE_CHECKING

from mmdistill_dense.lazy import import_lazily
from mmdistill_dense.utils import required  # first: a missing stack is explained

if TYPE_CHECKING:
    from mmdistill_dense.apps.inspect.monitor import MonitorHook

__all__ = ['MonitorHook']

import_lazily(__name__, __file__)
