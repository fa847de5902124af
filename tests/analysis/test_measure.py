import pytest
import torch

from mmdistill_dense.analysis import measure
from mmdistill_dense.analysis.measure import Timing, interleaved_times, peak_extra_memory

MIB = 2**20


def test_peak_counts_what_is_held_at_once() -> None:
    def work() -> None:
        first = torch.zeros(MIB, dtype=torch.uint8)
        del first
        torch.zeros(2 * MIB, dtype=torch.uint8).sum()  # converted to int64 inside the operation

    assert 18 * MIB <= peak_extra_memory(work) < 18.1 * MIB


def test_times_are_of_this_process_and_leave_out_the_first_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], []
    monkeypatch.setattr(measure.time, 'process_time', lambda: clock[0])

    def work(name: str, *seconds: float) -> None:
        clock[0] += seconds[calls.count(name)]
        calls.append(name)

    works = {'slow': lambda: work('slow', 64.0, 4.0, 1.0, 2.0), 'idle': lambda: work('idle', 8.0, 0.0, 0.0, 0.0)}
    times = interleaved_times(works, repeats=3)
    assert calls == ['slow', 'idle'] * 4
    assert times == {'slow': Timing(2.0, 1.0, 4.0), 'idle': Timing(0.0, 0.0, 0.0)}
