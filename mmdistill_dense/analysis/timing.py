"""Time and memory of a piece of work, measured so that two pieces can be compared on a shared machine."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

from mmdistill_dense.utils.silence import quiet_profiler

Work = Callable[[], object]
NOISE = 0.1  # of a time, on a machine that others use too


@dataclass(frozen=True)
class Timing:
    """Seconds over the repetitions, of process CPU time or of a GPU."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f'{self.median:.3g} ({self.low:.3g}-{self.high:.3g})'


def interleaved_times(works: Mapping[str, Work], repeats: int, device: str | torch.device = 'cpu') -> dict[str, Timing]:
    """Time several works in turns, after one untimed turn, so that all see the same machine.

    Process CPU time leaves out what other programs take; it adds up over threads. On a GPU it would measure launches
    only: there the seconds lie between two events of the device.
    """
    seconds_of = _cuda_seconds if torch.device(device).type == 'cuda' else _process_seconds
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            taken = seconds_of(work)
            if turn:
                seconds[name].append(taken)
    return {name: Timing(statistics.median(s), min(s), max(s)) for name, s in seconds.items()}


def check_whole(times: Mapping[str, Timing], whole: str, parts: Sequence[str]) -> None:
    """Raise RuntimeError if a whole took less time in every turn than its parts, by more than noise.

    Args:
        times: What :func:`interleaved_times` returned. A single turn passes: its noise is unknown.
        whole: Name of the work that contains the others.
        parts: Names of those.
    """
    least, usual = sum(times[part].low for part in parts), sum(times[part].median for part in parts)
    repeated = times[whole].low < times[whole].high
    if repeated and times[whole].high < least and times[whole].median < (1 - NOISE) * usual:
        raise RuntimeError(
            f'The {whole} step took {times[whole]} s. Its parts alone ({" and ".join(parts)}) took {usual:.3g} s. A '
            f'ratio of {times[whole].median / usual:.3f} is not a measurement: the step did less than a step of '
            'training does, or the machine was disturbed. Measure again.'
        )


def _process_seconds(work: Work) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def _cuda_seconds(work: Work) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()  # what was launched before on other streams
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000


def peak_extra_memory(work: Work, device: str | torch.device = 'cpu') -> int:
    """Return the largest number of bytes that torch held at once on the device beyond what it held at the start.

    On the CPU summed from the allocator's own events, temporaries inside an operation included; the library behind a
    convolution or a matrix product may keep scratch of its own, which is not seen. On a GPU the allocator's own count.
    """
    if torch.device(device).type == 'cuda':
        return _cuda_peak(work)
    with quiet_profiler(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    assert record.profiler is not None and record.profiler.kineto_results is not None
    events = [e for e in record.profiler.kineto_results.events() if e.name() == '[memory]']
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        if event.device_type() == torch.profiler.DeviceType.CPU:
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def _cuda_peak(work: Work) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
