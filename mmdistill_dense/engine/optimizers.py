"""The optimizer LARS, and a constructor of optimizers that trains inherited parameters more slowly."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import Tensor, nn
from torch.optim import Optimizer

from mmdistill_dense.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIMIZERS
from mmdistill_dense.utils.distributed import unwrap
from mmdistill_dense.utils.validate import is_number
from mmdistill_dense.weights.strict_load import below


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class InheritedRate(DefaultOptimWrapperConstructor):
    """mmengine's constructor, with ``paramwise_cfg.inherited_lr_mult``: a factor on the rate of inherited parameters.

    It multiplies the factors of ``custom_keys``, and holds for a run with ``load_from`` too.
    """

    def __call__(self, model: nn.Module) -> OptimWrapper:
        factor = self.paramwise_cfg.get('inherited_lr_mult')
        key = 'optim_wrapper.paramwise_cfg.inherited_lr_mult'
        if not is_number(factor) or factor <= 0:
            raise ValueError(f'{key} must be a number above 0, e.g. 0.1, got {factor!r}.')
        network: Any = unwrap(model)
        entries = getattr(getattr(network, 'distillation', None), 'inherit', ())
        parameters = dict(network.named_parameters(remove_duplicate=False))
        ids = {id(value) for entry in entries for value in below(parameters, entry.target).values()}
        if not ids:
            raise ValueError(f'{key}: this student inherits nothing. Set model.inherit.')
        wrapper = super().__call__(model)
        for group in wrapper.optimizer.param_groups:
            if all(id(p) in ids for p in group['params']):  # mmengine makes a group for each parameter
                group['lr'] *= factor
        return wrapper


@OPTIMIZERS.register_module()
class LARS(Optimizer):
    """SGD with momentum whose step is scaled, for each matrix or kernel, to the size of its weights.

    For a tensor ``w`` with gradient ``g``::

        ndim <= 1 or excluded:  u = g                                   (biases, norms, scales: no decay either)
        otherwise:              u = g + weight_decay * w;   u *= eta * |w| / |u|   where both norms are above 0
        mu <- momentum * mu + u;    w <- w - lr * mu                    (mu starts at 0)

    Norms are taken in float32 at least. A group with ``lars_exclude=True`` is treated as vectors are; mmengine puts the
    word there by ``paramwise_cfg=dict(custom_keys={'head': dict(lars_exclude=True)})``.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate; the recipe of PCD has 4.0 for a batch of 1024.
        momentum: Defaults to 0.9.
        weight_decay: Defaults to 0; 1e-5 in the recipe.
        eta: Size of a step relative to the weights, the trust coefficient. Defaults to 1e-3.
        released: Take the steps of PCD's released code, to compare with its curves: ``mu`` holds ``g + weight_decay *
            w`` unscaled and starts at that, so that the first step is ``1 + momentum`` times as long, and the step of
            ``mu`` is scaled by ``eta * |w| / (|g| + weight_decay * |w|)``. Defaults to False.

    Source: You, Gitman, Ginsburg, arXiv 1708.03888; in the form used with MoCo v3 (Chen, Xie, He, ICCV 2021).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 1e-3,
        released: bool = False,
    ) -> None:
        for name, value in dict(lr=lr, momentum=momentum, weight_decay=weight_decay, eta=eta).items():
            if value < 0 or (name == 'momentum' and value >= 1):
                raise ValueError(f'LARS: {name} must be 0 or more, momentum below 1, got {name}={value}.')
        defaults = dict(
            lr=lr, momentum=momentum, weight_decay=weight_decay, eta=eta, lars_exclude=False, released=released
        )
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # of a checkpoint from before this option
            group.setdefault('released', False)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; ``closure`` computes the loss and its gradients again, and its result is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [param for param in group['params'] if param.grad is not None]
            if any(gradient.is_sparse for gradient in _gradients(params)):
                raise TypeError('LARS takes no sparse gradients: set sparse=False in the embedding.')
            if params:
                self._step_group(params, group)
        return loss

    def _step_group(self, params: list[Tensor], group: dict[str, Any]) -> None:
        scaled = [param for param in params if param.ndim > 1 and not group['lars_exclude']]
        plain = [param for param in params if param.ndim <= 1 or group['lars_exclude']]
        decay, released, buffers = group['weight_decay'], group['released'], []
        updates = list(torch._foreach_add(_gradients(scaled), scaled, alpha=decay)) if scaled else []
        trusts = _trusts(scaled, updates, group)
        if not released:
            updates = [update * trust for update, trust in zip(updates, trusts, strict=True)]
        for param, update in zip(scaled + plain, updates + _gradients(plain), strict=True):
            if 'momentum_buffer' not in self.state[param]:
                self.state[param]['momentum_buffer'] = update.clone() if released else torch.zeros_like(param)
            buffers.append(self.state[param]['momentum_buffer'])
        torch._foreach_mul_(buffers, group['momentum'])
        torch._foreach_add_(buffers, updates + _gradients(plain))
        if released:
            buffers = [mu * trust for mu, trust in zip(buffers, trusts, strict=False)] + buffers[len(scaled) :]
        torch._foreach_add_(scaled + plain, buffers, alpha=-group['lr'])


def _trusts(params: list[Tensor], updates: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
    """Return what each step is scaled by; no value leaves its device."""
    if not params:
        return []
    decay = group['weight_decay'] if group['released'] else 0.0
    pairs = zip(_norms(params), _norms(_gradients(params) if group['released'] else updates), strict=True)
    return [torch.where((w > 0) & (u > 0), group['eta'] * w / (u + decay * w), 1.0) for w, u in pairs]


def _gradients(params: list[Tensor]) -> list[Tensor]:
    return [param.grad for param in params if param.grad is not None]


def _norms(tensors: Iterable[Tensor]) -> list[Tensor]:
    wide = [tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor for tensor in tensors]
    return list(torch._foreach_norm(wide))
