"""A stand-in for a GPU: its tensors hold real values, do not mix with those of the CPU, and tell where the CPU waits.

On a GPU the CPU launches operations and goes on. It has to wait, until all that was launched is done, wherever it needs
a number from the device or hands memory over that the device reads later. Such places are counted, by line:

- numbers that are asked for: ``item``, ``int``, ``float``, ``bool``, ``tolist``, ``torch.equal``, a copy to the CPU;
- sizes that depend on values: ``nonzero``, ``masked_select``, ``unique``, ``bincount``, a boolean index, and
  ``repeat_interleave`` without ``output_size``. ``x[mask] = number`` is none: torch fills without counting;
- copies to the device from memory that is not pinned: ``to``, ``copy_``, ``torch.tensor(numbers, device=…)``, an index
  that is a Python list or lies on the CPU. ``non_blocking=True`` alone does not help: CUDA then stages the memory and
  "may synchronize with the stream" (CUDA Driver API, "API synchronization behavior"). From pinned memory
  (``pin_memory()``, no change of dtype on the way) nothing waits.

Not counted: a single number of the CPU beside tensors of the device, which is handed to the kernel; and a wait for an
event, which leaves what was launched behind it in the queue. :attr:`FakeDevice.events` says how much that was.

Two mistakes that a GPU answers with wrong numbers are errors here. A copy to the CPU with ``non_blocking=True`` holds
NaN until an event behind it was waited for. Memory that changes after it was sent is found at the end.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from tests.fake_modes import Calls, Operations

PACKAGES = ('mmdistill_dense', 'mmseg', 'mmdet', 'mmengine', 'mmcv')


class Wait(NamedTuple):
    """A place where the CPU waits: ``mmdistill_dense/losses/x.py:87``, and what for.

    torch's own part of a backward pass has no line; its place is empty.
    """

    place: str
    what: str

    @property
    def ours(self) -> bool:
        """Whether the line is none of the mm* packages, which may wait also where this one calls them."""
        return not self.place.startswith(PACKAGES[1:])


class FakeDevice:
    """Counts the waits of what runs inside :meth:`running`.

    Attributes:
        waits: How often the CPU waited, by :class:`Wait`.
        events: For each wait for an event, how many operations were launched behind it: they keep a GPU busy.
        launched: Operations on the device so far.
    """

    def __init__(self) -> None:
        self.waits: Counter[Wait] = Counter()
        self.events: list[int] = []
        self.launched = 0
        self._arriving: list[tuple[Tensor, Tensor]] = []  # memory of the CPU and what will be in it
        self._sent: list[tuple[Tensor, int]] = []  # with the version that was sent

    @contextlib.contextmanager
    def running(self) -> Iterator[FakeDevice]:
        """Let tensors of the device work. It knows no autocast.

        Raises:
            RuntimeError: As CUDA does where tensors of CPU and device are mixed; and for memory that was changed after
                it was sent.
        """
        plain = mock.patch.multiple(
            torch, autocast=lambda *_, **__: contextlib.nullcontext(), is_autocast_enabled=lambda *_: False
        )
        with plain, mock.patch('torch.cuda.current_stream', lambda *_: _Stream(self)), Operations(self), Calls(self):
            yield self
        for source, version in self._sent:
            if source._version != version:
                raise RuntimeError(f'{tuple(source.shape)} was changed after it was sent to the device')

    def forget(self) -> None:
        """Count anew."""
        self.waits.clear()
        self.events.clear()

    def ours(self) -> int:
        """How often we waited."""
        return sum(count for wait, count in self.waits.items() if wait.ours)

    def others(self) -> int:
        """How often the mm* packages waited."""
        return self.waits.total() - self.ours()

    # What modes and streams tell

    def wait(self, what: str) -> None:
        """Count a wait at the innermost line of one of the packages."""
        frame: Any = sys._getframe(1)
        while frame is not None and not _in_package(frame.f_code.co_filename):
            frame = frame.f_back
        place = '' if frame is None else f'{_in_package(frame.f_code.co_filename)}:{frame.f_lineno}'
        self.waits[Wait(place, what)] += 1

    def send(self, source: Tensor, non_blocking: bool, cast: bool = False) -> None:
        """Note a copy from the CPU."""
        pinned = getattr(source, 'fake_pinned', False) and not cast
        if not (pinned and non_blocking):
            self.wait('copy to the device')
        self._sent.append((source, source._version))

    def fetch(self, value: Tensor) -> Tensor:
        """Return memory of the CPU that will hold the values later."""
        memory = torch.full_like(value, torch.nan if value.is_floating_point() else 1)
        self._arriving.append((memory, value.clone()))
        return memory


class _Stream:
    """What is used of a stream: events behind what was launched so far."""

    def __init__(self, device: FakeDevice) -> None:
        self.device = device

    def record_event(self) -> _Event:
        return _Event(self.device)


class _Event:
    def __init__(self, device: FakeDevice) -> None:
        self.device, self.behind = device, device.launched
        self.arriving = list(device._arriving)

    def synchronize(self) -> None:
        self.device.events.append(self.device.launched - self.behind)
        for memory, value in self.arriving:
            memory.copy_(value)


def _in_package(file: str) -> str:
    """Return the part of a path from its package on, if it is one of those that are told."""
    parts = file.split('/')
    found = [index for index, part in enumerate(parts) if part in PACKAGES and 'tests' not in parts[index:]]
    return '/'.join(parts[found[-1] :]) if found else ''
