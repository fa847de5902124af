"""A lower learning rate for what the student inherits from its teacher."""

from __future__ import annotations

from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import nn

from mmdistill_dense.guards.config import below
from mmdistill_dense.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmdistill_dense.utils.distributed import unwrap


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class InheritedRate(DefaultOptimWrapperConstructor):
    """mmengine's constructor, with ``paramwise_cfg.inherited_lr_mult``: a factor on the rate of inherited parameters.

    It multiplies the factors of ``custom_keys``, and holds for a run with ``load_from`` too.

    Raises:
        ValueError: For a factor that is not a number above 0, or a model that inherits nothing.
    """

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer."""
        factor = self.paramwise_cfg.get('inherited_lr_mult')
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or factor <= 0:
            raise ValueError(
                f'optim_wrapper.paramwise_cfg.inherited_lr_mult must be a number above 0, e.g. 0.1, got {factor!r}.'
            )
        network: Any = unwrap(model)
        entries = getattr(getattr(network, 'distillation', None), 'inherit', ())
        named = dict(network.named_parameters(remove_duplicate=False))
        taken = {id(named[entry.target]) for entry in entries if entry.target in named}
        taken |= {id(value) for entry in entries for value in below(named, entry.target).values()}
        if not taken:
            raise ValueError(
                'optim_wrapper.paramwise_cfg.inherited_lr_mult: this student inherits nothing. Set model.inherit, or '
                'leave the constructor out.'
            )
        wrapper = super().__call__(model)
        for group in wrapper.optimizer.param_groups:
            if all(id(one) in taken for one in group['params']):  # mmengine makes a group for each parameter
                group['lr'] *= factor
        return wrapper
