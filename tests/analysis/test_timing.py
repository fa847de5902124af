import pytest
import torch

from mmdistill_dense.apps.inspect import step_cost as timing
from mmdistill_dense.apps.inspect.step_cost import Timing, interleaved_times, peak_extra_memory

MIB = 2**20


def test_peak_counts_what_is_held_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        first = torch.zeros(MIB, dtype=torch.uint8)
        del first
        torch.zeros(2 * MIB, dtype=torch.uint8).sum()  # converted to int64 inside the operation

    assert 18 * MIB <= peak_extra_memory(work) < 18.1 * MIB
    assert not capfd.readouterr().err, 'some versions of torch report the start of their profiler there'


def test_times_are_of_this_process_and_leave_out_the_first_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], []
    monkeypatch.setattr(timing.time, 'process_time', lambda: clock[0])

    def work(name: str, *seconds: float) -> None:
        clock[0] += seconds[calls.count(name)]
        calls.append(name)

    works = {'slow': lambda: work('slow', 64.0, 4.0, 1.0, 2.0), 'idle': lambda: work('idle', 8.0, 0.0, 0.0, 0.0)}
    times = interleaved_times(works, repeats=3)
    assert calls == ['slow', 'idle'] * 4
    assert times == {'slow': Timing(2.0, 1.0, 4.0), 'idle': Timing(0.0, 0.0, 0.0)}


def test_on_a_gpu_seconds_lie_between_two_events_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for its clock, which goes on with the work and not with the process."""
    clock = [0.0]

    def go(milliseconds: float) -> None:
        clock[0] += milliseconds

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            self.synchronize = lambda: go(1000.0)  # what is waited for afterwards does not count

        def record(self, stream: str) -> None:
            assert stream == 'of cuda:1'
            self.at = clock[0]

        def elapsed_time(self, end: 'Event') -> float:
            return end.at - self.at

    monkeypatch.setattr(torch.cuda, 'Event', Event)
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda device: None)
    monkeypatch.setattr(torch.cuda, 'current_stream', 'of {}'.format)
    assert interleaved_times({'step': lambda: go(250.0)}, 3, 'cuda:1') == {'step': Timing(0.25, 0.25, 0.25)}


def test_on_a_gpu_the_peak_is_above_what_was_held_before(monkeypatch: pytest.MonkeyPatch) -> None:
    peak = [99 * MIB]

    def work() -> None:
        peak[0] = max(peak[0], 8 * MIB)

    for name, found in dict(
        synchronize=lambda device: None,
        reset_peak_memory_stats=lambda device: peak.__setitem__(0, 5 * MIB),
        memory_allocated=lambda device: 5 * MIB if device == 'cuda:1' else 0,
        max_memory_allocated=lambda device: peak[0] if device == 'cuda:1' else 0,
    ).items():
        monkeypatch.setattr(torch.cuda, name, found)
    assert peak_extra_memory(work, 'cuda:1') == 3 * MIB


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
def test_a_gpu_is_measured() -> None:
    def work() -> None:
        torch.zeros(MIB, dtype=torch.uint8, device='cuda')

    assert peak_extra_memory(work, 'cuda') >= MIB
    assert interleaved_times({'step': work}, 2, 'cuda')['step'].low > 0
