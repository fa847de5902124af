"""What a method costs: size of the student, time and memory of a training step beside the control's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from mmdistill_dense.apps.inspect.training_step import (
    Step,
    Steps,
    build_student,
    picture_size,
    pipeline_size,
    prepare_steps,
    training_batch,
)
from mmdistill_dense.config.resolve import model_of, teachers_of
from mmdistill_dense.networks.trace import TeacherOption
from mmdistill_dense.utils.quiet import quiet_profiler
from mmdistill_dense.utils.runner_internals import Network

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
    """Time several works in turns, after one untimed turn, so that all see the same machine."""
    # process CPU time leaves out other programs; on a GPU it would measure launches only, so events are timed
    seconds_of = _cuda_seconds if torch.device(device).type == 'cuda' else _process_seconds
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            taken = seconds_of(work)
            if turn:
                seconds[name].append(taken)
    return {name: Timing(statistics.median(s), min(s), max(s)) for name, s in seconds.items()}


def check_whole(times: Mapping[str, Timing], whole: str, parts: Sequence[str]) -> None:
    """Raise RuntimeError if a whole took less time in every turn than its parts, by more than noise."""
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
    """Return the most bytes that torch held at once on the device beyond the start, without scratch of libraries."""
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


Size = tuple[int, int]
REPEATS = 5


def student_cost(config: Config, size: Size | None = None) -> dict[str, Any]:
    """Return parameters and GFLOPs (multiply-adds that mmengine counts) of student and teachers at the test size."""
    init_default_scope(config.get('default_scope', 'mmseg'))
    student = build_student({**model_of(config), 'distillers': {}, 'inherit': ()})
    size, origin = (size, 'given') if size else test_size(student, config)
    cost = {'student': _size_of(student, student, config, size), 'test_size': list(size), 'test_size_from': origin}
    teachers = [TeacherOption.parse(option).build() for option in teachers_of(config.model).values()]
    sizes = [_size_of(teacher, student, config, size) for teacher in teachers]
    total = {key: sum(one[key] for one in sizes) for key in ('parameters', 'gflops')}
    return {**cost, 'teacher': total if sizes else None}


def step_cost(config: Config, device: str, batch: int | None = None, repeats: int = REPEATS) -> dict[str, Any]:
    """Return time and memory of the distilled step and of the control's, measured in turns on one generated batch."""
    steps = prepare_steps(config, batch, device=device)
    times = interleaved_times({'control': steps.control, 'distilled': steps.distilled}, repeats, device)
    check_whole(times, 'distilled', ['control'])
    return {
        'batch': steps.batch,
        'train_size': list(steps.size),
        'teacher_weights': steps.teacher_weights,
        'adapter_parameters': sum(p.numel() for p in steps.distilled.network.distillers.parameters()),
        'seconds': {name: asdict(timing) for name, timing in times.items()},
        'ratio': times['distilled'].median / times['control'].median,
        'memory': extra_memory(steps, device),
    }


def test_size(student: Network, config: Config) -> tuple[Size, str]:
    """Return height and width of a test picture as the network gets it, and where they come from."""
    dataset = config.test_dataloader.dataset
    try:
        return picture_size(dataset), 'the first test picture'
    except FileNotFoundError:
        resized = None if hasattr(student, 'decode_head') else pipeline_size(dataset)
        if resized:
            return resized, 'the test pipeline'
        picture = training_batch(student, config, 1)['inputs'][0]
        return (picture.shape[1], picture.shape[2]), 'the size in training, as the test set is not there'


def _size_of(network: Any, student: Network, config: Config, size: Size) -> dict[str, Any]:
    batch = student.data_preprocessor(training_batch(student, config, 1, size), False)
    return {'parameters': sum(p.numel() for p in network.parameters()), 'gflops': gflops_of(network, batch)}


def gflops_of(network: Any, batch: Mapping[str, Any]) -> float:
    """Return the operations of a forward pass over a prepared batch, in 1e9, as mmengine counts them."""
    network.eval()
    forward = network.forward
    if hasattr(network, 'roi_head') or hasattr(network, 'bbox_head'):  # may ask for the size
        network.forward = partial(network.forward, data_samples=batch['data_samples'])
    try:
        with torch.no_grad():
            counted = FlopAnalyzer(network, (batch['inputs'],))
            return counted.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total() / 1e9
    finally:
        network.forward = forward


def extra_memory(steps: Steps, device: str) -> dict[str, int]:
    """Return, in bytes, the peaks of both steps, what distillation holds between steps, and the extra in all."""
    control, distilled = (peak_extra_memory(step, device) for step in (steps.control, steps.distilled))
    held = _held(steps.distilled) - _held(steps.control) + sum(_bytes(_tensors(t.network)) for t in steps.teachers)
    return {'control_step': control, 'distilled_step': distilled, 'held': held, 'extra': distilled - control + held}


def _held(step: Step) -> int:
    states = step.wrapper.optimizer.state.values()
    return _bytes(_tensors(step.network)) + _bytes(v for state in states for v in state.values() if torch.is_tensor(v))


def _tensors(network: nn.Module | None) -> list[Tensor]:
    assert network is not None, 'the teacher is loaded before a step'
    return [*network.parameters(), *network.buffers()]


def _bytes(tensors: Iterable[Tensor]) -> int:
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.numel()}
    return sum(storages.values())
