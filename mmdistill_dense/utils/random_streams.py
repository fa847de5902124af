"""Derive seeds from numbers, and keep the global random streams as they are."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def mix(*numbers: int) -> int:
    """Return a 32-bit seed that differs for different tuples of integers."""
    return zlib.crc32('/'.join(str(int(number)) for number in numbers).encode())


@contextmanager
def fork_rng() -> Iterator[None]:
    """Restore the global torch, numpy and python random streams at the end of the context."""
    python, array = random.getstate(), np.random.get_state()
    # Networks are built on the CPU or the meta device, so only the current device is restored.
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)


def stream_states() -> Any:
    """Return the states of the global torch, numpy and python random streams, for comparison."""
    array: Any = np.random.get_state()
    streams = [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [])]
    return random.getstate(), array[1].tobytes(), array[2:], [stream.numpy().tobytes() for stream in streams]


def seed_everything(seed: int) -> None:
    """Seed python's, numpy's and torch's global streams."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
