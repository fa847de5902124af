"""Time and memory of a piece of work, measured so that two pieces can be compared on a shared machine."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Timing:
    """Seconds of process CPU time over the repetitions."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f'{self.median:.3g} ({self.low:.3g}-{self.high:.3g})'


def interleaved_times(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Timing]:
    """Time several works in turns, after one untimed turn, so that all see the same machine.

    Process CPU time leaves out what other programs take; it adds up over threads. On a GPU it would measure launches
    only.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            begin = time.process_time()
            work()
            if turn:
                seconds[name].append(time.process_time() - begin)
    return {name: Timing(statistics.median(s), min(s), max(s)) for name, s in seconds.items()}


def peak_extra_memory(work: Callable[[], object]) -> int:
    """Return the largest number of bytes that torch held at once on the CPU beyond what it held at the start.

    Summed from the allocator's own events, temporaries inside an operation included; the library behind a convolution
    or a matrix product may keep scratch of its own, which is not seen.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    assert record.profiler is not None and record.profiler.kineto_results is not None
    events = [e for e in record.profiler.kineto_results.events() if e.name() == '[memory]']
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        if event.device_type() == torch.profiler.DeviceType.CPU:
            held += event.nbytes()
            peak = max(peak, held)
    return peak
