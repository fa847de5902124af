"""One training step of a checked model: what is compared, the gradient of each loss, and the cost."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from mmdistill_dense.analysis.gradients import measure_gradients
from mmdistill_dense.analysis.step_cost import extra_memory
from mmdistill_dense.analysis.timing import interleaved_times, peak_extra_memory
from mmdistill_dense.analysis.training_step import N, Step, Steps, build_student, make_step
from mmdistill_dense.check.context import Subject
from mmdistill_dense.check.load_networks import option, ready_batch, resolve
from mmdistill_dense.check.own_copy import pair_gaps
from mmdistill_dense.check.tap_watch import Watch
from mmdistill_dense.networks.first_look import refuse_blind

REPEATS = 1  # timed turns, after one that warms up: an estimate


def run_step(subject: Subject) -> None:
    """Run a step on the batch and note taps, adapters and the terms of the loss; the model stays as it is.

    Queues of keys, which are empty when training starts, are filled with the batch first: an empty one gives no loss.
    """
    model = subject.model
    if not subject.distillers:
        subject.terms = measure_gradients(model, subject.batch)  # type: ignore[arg-type]
        return
    subject.gaps = pair_gaps(model, resolve(subject), **ready_batch(subject))
    if any(True for distiller in subject.distillers.values() for _ in distiller.buffers()):
        with torch.no_grad():
            first = model(**ready_batch(subject), mode='loss')
        given = [name for name, value in first.items() if 'loss' in name and torch.is_tensor(value) and value.any()]
        subject.idle = [one for one in subject.distillers if not any(f'distill.{one}.' in name for name in given)]
    for teacher in subject.frozen.values():
        teacher.looks = []
    with Watch(model, subject.frozen).open() as watch:
        subject.terms = measure_gradients(model, subject.batch)  # type: ignore[arg-type]
    subject.taps, subject.adapters, subject.flat = watch.rows(), watch.adapters(), list(watch.flat)
    for teacher in subject.frozen.values():
        looks, teacher.looks = teacher.looks or [], None
        refuse_blind(
            teacher.key, [look if subject.options.weights else replace(look, flat={}) for look in looks], subject.config
        )


def measure_cost(subject: Subject) -> None:
    """Measure time and memory of a step, and of the student's step alone if it has a loss of its own.

    ``subject.cost`` gets ``device``, ``batch``, seconds of ``distilled`` (and ``control``) as median, low and high,
    bytes at the peak of the step ``distilled_memory``, and the ``extra_memory`` that training with the distillers takes
    beyond training without. It has ``problem`` instead if the config's optimizer does not run here (half precision
    on a CPU).
    """
    if not subject.options.cost or not subject.distillers:
        return
    try:
        subject.cost = {'device': subject.options.device, 'batch': subject.batch_size, **_cost(subject)}
    except (AssertionError, NotImplementedError, RuntimeError, TypeError) as error:
        subject.cost = {'problem': str(error)}


def _cost(subject: Subject) -> Mapping[str, Any]:
    config, device, batch = subject.config, subject.options.device, subject.batch or {}
    distilled = _fresh(make_step(subject.model, config, batch))
    if 'task' not in {term.name for term in subject.terms}:
        times = interleaved_times({'distilled': distilled}, REPEATS, device)
        return {'distilled': asdict(times['distilled']), 'distilled_memory': peak_extra_memory(distilled, device)}
    alone = build_student({**option(subject), 'distillers': {}, 'inherit': ()}).to(device)
    steps = Steps(_fresh(make_step(alone, config, batch)), distilled, torch.empty(0))
    times = interleaved_times({'control': steps.control, 'distilled': distilled}, REPEATS, device)
    memory = extra_memory(steps, device)
    return {
        **{name: asdict(timing) for name, timing in times.items()},
        'distilled_memory': memory['distilled_step'],
        'control_memory': memory['control_step'],
        'extra_memory': memory['extra'],
    }


class _FreshStep(Step[N]):
    """A step that prepares a copy of its batch: samples are padded in place, and a second time would be wrong."""

    def __call__(self) -> object:
        return self.network.train_step(copy.deepcopy(self.data), self.wrapper)


def _fresh(step: Step[N]) -> Step[N]:
    return _FreshStep(step.network, step.wrapper, step.data)
