"""SpatialAdaptor: a projection head for pooled vectors, applied to feature maps without retraining."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdistill_dense.losses.infonce import spatial_gate

_BN = {'running_mean', 'running_var'}
_AFFINE = {'weight', 'bias'}
_COUNTER = 'num_batches_tracked'
Entries = Mapping[str, Tensor]
Step = tuple[str, dict[str, Tensor]]  # kind ('linear', 'linear+', 'bn', 'bn0', 'act') and tensors


class SpatialGate(nn.Module):
    """The activation of an adapted head: a gate per image and channel, from the mean before it, or for each pixel."""

    def __init__(self, kind: str = 'relu', per_pixel: bool = False) -> None:
        super().__init__()
        self.kind = kind
        self.per_pixel = per_pixel

    def forward(self, x: Tensor) -> Tensor:
        """Gate ``[B, C, H, W]``."""
        return getattr(F, self.kind)(x) if self.per_pixel else spatial_gate(x, self.kind)

    def extra_repr(self) -> str:
        return repr(self.kind)


class SpatialAdaptor(nn.Module):
    r"""A vector head as a head for maps, with ``mean_hw(adaptor(x)) == head(mean_hw(x))`` exactly.

    Linear becomes a 1x1 convolution, BatchNorm1d the same affine map per channel, and an activation
    :math:`f(m) = m\,g(m)` the gate :math:`x \cdot g(\mathrm{mean}_{hw} x)`: every step commutes with the mean (PCD,
    ICCV 2023; the form for GELU and SiLU is ours). It stays in eval mode, without which none of this holds.

    Args:
        steps: What :func:`read_steps` returns.
        activation: Stands where ``steps`` has an ``'act'``.
        per_pixel: Apply the vector head to each pixel as it is, an ablation: the means then differ.
    """

    def __init__(self, steps: Sequence[Step], activation: str = 'relu', per_pixel: bool = False) -> None:
        super().__init__()
        gate = functools.partial(SpatialGate, activation, per_pixel)
        self.layers = nn.Sequential(*(gate() if kind == 'act' else _layer(kind, tensors) for kind, tensors in steps))
        self.widths = step_widths(steps)
        self.train(False)

    @classmethod
    def from_entries(
        cls, entries: Entries, activation: str = 'relu', keep_last_bn: bool = False, per_pixel: bool = False
    ) -> SpatialAdaptor:
        """Rebuild a head from a checkpoint's entries alone, ``'<index>.<parameter>'`` of the head's ``nn.Sequential``.

        An index that is left out is an activation. A final batch norm without affine parameters is left out.
        """
        steps = read_steps(entries)
        if steps[-1][0] == 'bn0' and not keep_last_bn:
            steps = steps[:-1]
        floats = [tensor.dtype for tensor in entries.values() if tensor.is_floating_point()]
        return cls(steps, activation, per_pixel).to(functools.reduce(torch.promote_types, floats))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, C, H, W]`` for a feature map ``[B, C_in, H, W]``."""
        if x.shape[1] != self.widths[0]:
            problem = f'the head takes {self.widths[0]} channels and the backbone gives {x.shape[1]}'
            raise ValueError(f'{problem}: set teacher.backbone or teacher.head=dict(widths=[…]) as in the checkpoint.')
        return self.layers(x)

    def vector(self, pooled: Tensor) -> Tensor:
        """Return ``[B, C]`` for pooled features ``[B, C_in]``: the vector head as it was trained."""
        return self(pooled[:, :, None, None]).flatten(1)  # (B, C)

    def train(self, mode: bool = True) -> SpatialAdaptor:
        return super().train(False)

    def reset_parameters(self) -> None:
        """Draw random weights, for a teacher without a file."""
        for layer in self.layers:
            if not isinstance(layer, SpatialGate):
                layer.reset_parameters()  # type: ignore[operator]


def read_steps(entries: Entries) -> list[Step]:
    """Return the steps of a head in order, from its entries."""
    layers: dict[int, dict[str, Tensor]] = {}
    for name, tensor in entries.items():
        number, _, parameter = name.partition('.')
        if not number.isdigit() or not parameter:
            raise ValueError(f'head entry {name!r} is not <index>.<parameter> of a sequence of layers.')
        layers.setdefault(int(number), {})[parameter] = tensor
    if not layers:
        raise ValueError('there are no head entries.')
    steps: list[Step] = []
    expected = 0
    for index, tensors in sorted(layers.items()):
        if index > expected + 1 or (index and not steps):
            where = f'are missing{"" if steps else " before the first layer"}'
            raise ValueError(f'head entries {expected} to {index - 1} {where}: an activation leaves one out.')
        steps += [('act', {})] * (index - expected)
        steps.append((_kind(index, tensors), tensors))
        expected = index + 1
    step_widths(steps)
    return steps


def _kind(index: int, tensors: Mapping[str, Tensor]) -> str:
    names = set(tensors) - {_COUNTER}
    if names & _BN:
        if names in (_BN, _BN | _AFFINE):
            return 'bn0' if names == _BN else 'bn'
        missing = sorted((_BN | (_AFFINE if names & _AFFINE else set())) - names)
        entries = ', '.join(missing or sorted(names - _BN - _AFFINE))
        wrong = f'{entries} is {"missing" if missing else "not part of one"}'
        raise ValueError(f'head entry {index} is a batch norm, but {wrong}.')
    if names - _AFFINE or 'weight' not in names or tensors['weight'].ndim != 2:
        shapes = {name: tuple(tensors[name].shape) for name in sorted(names)}
        raise ValueError(f'head entry {index} is neither a linear layer nor a complete batch norm: {shapes}.')
    return 'linear+' if 'bias' in names else 'linear'


def step_widths(steps: Sequence[Step]) -> list[int]:
    """Return the widths from input to output."""
    widths: list[int] = []
    for number, (kind, tensors) in enumerate(steps):
        if kind.startswith('linear'):
            out, inner = tensors['weight'].shape
            widths = widths or [inner]
            if inner != widths[-1]:
                raise ValueError(f'head step {number} takes {inner} channels, the one before gives {widths[-1]}.')
            widths.append(out)
        for name, tensor in tensors.items():
            if tensor.ndim == 1 and widths and len(tensor) != widths[-1]:
                raise ValueError(f'head step {number} has {name}[{len(tensor)}] at {widths[-1]} channels.')
    if len(widths) < 2:
        raise ValueError('the head has no linear layer.')
    return widths


def blank_entries(form: str, widths: Sequence[int]) -> dict[str, Tensor]:
    """Return entries of zeros for a head of a given form, e.g. ``'linear bn act linear+'``, and widths."""
    entries: dict[str, Tensor] = {}
    depth = 0
    for index, kind in enumerate(form.split()):
        if kind.startswith('linear'):
            depth += 1
            entries[f'{index}.weight'] = torch.zeros(widths[depth], widths[depth - 1])
        if kind in ('linear+', 'bn'):
            entries[f'{index}.bias'] = torch.zeros(widths[depth])
        if kind == 'bn':
            entries[f'{index}.weight'] = torch.ones(widths[depth])
        if kind.startswith('bn'):
            entries[f'{index}.running_mean'] = torch.zeros(widths[depth])
            entries[f'{index}.running_var'] = torch.ones(widths[depth])
    return entries


def _layer(kind: str, tensors: Mapping[str, Tensor]) -> nn.Module:
    with torch.device('meta'):
        if kind.startswith('linear'):
            out, inner = tensors['weight'].shape
            layer: nn.Module = nn.Conv2d(inner, out, 1, bias='bias' in tensors)
        else:
            layer = nn.BatchNorm2d(len(tensors['running_mean']), affine='weight' in tensors)
    target = layer.state_dict()
    source = {_COUNTER: torch.zeros((), dtype=torch.long), **tensors}
    state = {name: source[name].detach().clone().reshape(t.shape) for name, t in target.items()}  # (O, I, 1, 1), (C,)
    layer.load_state_dict(state, assign=True)
    return layer.requires_grad_(False)
