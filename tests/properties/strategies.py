"""What the property tests draw: shapes, values of many kinds, tensors whose axes have names.

Numbers come from torch under a drawn seed, so that an example is cheap and shrinks by its shape and kind.
"""

import os
from typing import Any

import hypothesis.strategies as st
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor

FEW, MANY = 12, 50  # examples of a property in `make test` and in `make soak`
# All are legal: what a network gives at the start, at a dead channel, in a padded corner, before it diverges.
KINDS = ('normal', 'zeros', 'constant', 'sparse', 'large', 'small', 'one pixel')
ORDINARY = ('normal', 'sparse')  # for equalities, which large or vanishing values meet only up to their rounding
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_COMMON: dict[str, Any] = dict(
    deadline=None, derandomize=True, database=None, print_blob=False, suppress_health_check=[HealthCheck.too_slow]
)
few = settings(max_examples=FEW, **_COMMON)
many = settings(max_examples=int(os.environ.get('PROPERTY_EXAMPLES', MANY)), **_COMMON)

seeds = st.integers(0, 2**31 - 1)
sides = st.integers(1, 9)
batches = st.integers(1, 4)
channels = st.integers(1, 6)
temperatures = st.sampled_from([0.05, 0.5, 1.0, 4.0])


def tensor(seed: int, kind: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers of a kind; half precision never leaves its range."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == 'zeros':
        x = torch.zeros_like(x)
    elif kind == 'constant':
        x = torch.full_like(x, float(x.flatten()[0]) if x.numel() else 0.0)
    elif kind == 'sparse':
        x = x * (torch.rand(shape, generator=generator) < 0.5)
    elif kind == 'large':
        x = x * 1e4
    elif kind == 'small':
        x = x * 1e-20
    elif kind == 'one pixel':
        x = x * (torch.arange(x[0, 0].numel() if x.ndim > 2 else 1).eq(0).view(shape[2:] if x.ndim > 2 else ()))
    largest = torch.finfo(dtype).max
    return x.clamp(-largest, largest).to(dtype)


def values(kinds: tuple[str, ...] = KINDS) -> st.SearchStrategy[tuple[int, str]]:
    """A seed and a kind, the arguments of :func:`tensor`."""
    return st.tuples(seeds, st.sampled_from(kinds))
