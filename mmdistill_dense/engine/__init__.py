"""What the runner uses: hooks, the distributed wrapper, an optimizer and a constructor of optimizers."""

from typing import TYPE_CHECKING

from mmdistill_dense.utils.lazy import import_lazily, require_stack

if TYPE_CHECKING:
    from mmdistill_dense.engine.ddp import DistillDDP
    from mmdistill_dense.engine.distill_hook import DistillHook
    from mmdistill_dense.engine.optimizers import LARS, InheritedRate

__all__ = ['LARS', 'DistillDDP', 'DistillHook', 'InheritedRate']
require_stack()
import_lazily(__name__, __file__)
