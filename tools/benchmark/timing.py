"""Seconds and memory of works."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

Work = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds over the repetitions, of process CPU time or of a GPU."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f'{self.median:.3g} ({self.low:.3g}-{self.high:.3g})'


def interleaved_times(works: Mapping[str, Work], repeats: int, device: str | torch.device = 'cpu') -> dict[str, Timing]:
    """Time several works in turns, after one untimed turn, so that all see the same machine."""
    # process CPU time leaves out other programs; on a GPU it would measure launches only, so events are timed
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            elapsed = _seconds(work, device)
            if turn:
                seconds[name].append(elapsed)
    return {name: Timing(statistics.median(s), min(s), max(s)) for name, s in seconds.items()}


def _seconds(work: Work, device: str | torch.device) -> float:
    if torch.device(device).type != 'cuda':
        start = time.process_time()
        work()
        return time.process_time() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)  # what was launched before on other streams
    begin.record(torch.cuda.current_stream(device))
    work()
    end.record(torch.cuda.current_stream(device))
    end.synchronize()
    return begin.elapsed_time(end) / 1000


def peak_extra_memory(work: Work, device: str | torch.device = 'cpu') -> int:
    """Return the most bytes that torch held at once on the device beyond the start, without scratch of libraries."""
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with _without_stderr(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    assert record.profiler is not None and record.profiler.kineto_results is not None
    events = [e for e in record.profiler.kineto_results.events() if e.name() == '[memory]']
    allocated = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        if event.device_type() == torch.profiler.DeviceType.CPU:
            allocated += event.nbytes()
            peak = max(peak, allocated)
    return peak


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Drop what is written to the process's standard error, where torch's profiler reports its start and stop."""
    stderr_copy = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(stderr_copy, 2)
        os.close(stderr_copy)
        os.close(nowhere)
