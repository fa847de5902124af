"""What the runner uses: hooks and the distributed wrapper."""

from mmdistill_dense import _stack  # noqa: F401  (first: a missing stack is explained)
from mmdistill_dense.engine.ddp import DistillDDP
from mmdistill_dense.engine.distill_hook import DistillHook

__all__ = ['DistillDDP', 'DistillHook']
