import time

import torch

from mmdistill_dense.analysis.measure import interleaved_times, peak_extra_memory

MIB = 2**20


def test_peak_counts_what_is_held_at_once() -> None:
    def work() -> None:
        first = torch.zeros(MIB, dtype=torch.uint8)
        del first
        torch.zeros(2 * MIB, dtype=torch.uint8).sum()  # converted to int64 inside the operation

    assert 18 * MIB <= peak_extra_memory(work) < 18.1 * MIB


def test_times_are_of_this_process_and_leave_out_the_first_turn() -> None:
    calls = []

    def busy() -> None:
        calls.append('busy')
        end = time.process_time() + (0.2 if len(calls) <= 2 else 0.01)
        while time.process_time() < end:
            pass

    def asleep() -> None:
        calls.append('asleep')
        time.sleep(0.02)

    times = interleaved_times({'busy': busy, 'asleep': asleep}, repeats=3)
    assert calls == ['busy', 'asleep'] * 4
    assert 0.009 < times['busy'].low <= times['busy'].median <= times['busy'].high < 0.1
    assert times['asleep'].median < 0.01
