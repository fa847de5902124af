"""What the runner uses: hooks, the distributed wrapper, an optimizer and a constructor of optimizers."""

from mmdistill_dense.utils import required  # first, because it explains a missing stack

# isort: split
from mmdistill_dense.engine.ddp import DistillDDP
from mmdistill_dense.engine.distill_hook import DistillHook
from mmdistill_dense.engine.optimizers import LARS, InheritedRate

__all__ = ['LARS', 'DistillDDP', 'DistillHook', 'InheritedRate']
