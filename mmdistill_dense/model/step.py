"""The parts of a distilled training step: run the teachers, record the student, compare, name the losses."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmdistill_dense.distillers.base import Distiller, Losses, Recorded
from mmdistill_dense.model.distillation import Distillation
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.utils.protocols import Samples
from mmdistill_dense.utils.random_streams import mix

Terms = Mapping[str, Losses]  # the losses of each distiller by its name


def teach(active: Sequence[Distiller], inputs: Tensor, like: Tensor) -> dict[str, Recorded]:
    """Return the tapped tensors of each teacher that an active distiller needs; :func:`compare` waits for them.

    Args:
        active: The distillers that compute something in this step.
        inputs: The student's preprocessed batch (B, C, H, W).
        like: A parameter of the student. A teacher that lost its network by a move or a pickle is loaded like it.
    """
    taught: dict[str, Recorded] = {}
    for name, teacher in _teachers_of(active).items():
        teacher.load(like)
        state = active[0].state
        taught[name] = teacher.begin(inputs, mix(state.seed, state.iteration, *state.part.encode()))
    return taught


@contextlib.contextmanager
def recording(model: nn.Module, distillation: Distillation, active: Sequence[Distiller]) -> Iterator[Recorded]:
    """Record the student's taps of the active distillers while the context is open."""
    taps = [tap for one in active for tap in one.recorded_taps]
    recorder = distillation.recorder(model, taps)
    with recorder.recording() as student:
        yield student
    recorder.check_complete()


def compare(
    distillers: Mapping[str, Distiller], student: Recorded, taught: Mapping[str, Recorded], data_samples: Samples
) -> Terms:
    """Return the losses of all distillers without weight; one that is off gives none."""
    teachers = {name: one for name, one in _teachers_of(distillers.values()).items() if name in taught}
    for name, teacher in teachers.items():
        teacher.join(taught[name])
    _check_gradients(student, {str(tap) for one in distillers.values() for tap in one.student_taps})
    with contextlib.ExitStack() as stack:
        for teacher in teachers.values():
            stack.enter_context(teacher.step_cache())
        return {
            name: one.unweighted(student, taught.get(str(one.teacher_name), {}), data_samples)
            for name, one in distillers.items()
        }


def _teachers_of(distillers: Iterable[Distiller]) -> dict[str, FrozenTeacher]:
    return {str(one.teacher_name): one.teacher for one in distillers if one.teacher is not None}


def weighted(distillers: Mapping[str, Distiller], terms: Terms) -> Terms:
    """Return the losses with their weights; of a distiller that is off a zero, because DDP needs its parameters."""
    return {name: one.weighted(terms[name]) for name, one in distillers.items()}


def named(terms: Terms) -> dict[str, Tensor]:
    """Return the losses under the names for the log: ``distill.<name>.loss_…``."""
    return {f'distill.{name}.{key}': value for name, own in terms.items() for key, value in own.items()}


def _check_gradients(student: Mapping[str, list[Tensor]], compared: Collection[str]) -> None:
    if not torch.is_grad_enabled():
        return
    for name, tensors in student.items():
        if name in compared and not all(tensor.requires_grad for tensor in tensors):
            raise ValueError(
                f'student_tap={name!r} has no gradient, so distilling it would change nothing. Either it is inside an '
                'activation-checkpointed block (with_cp=True, activation_checkpointing): tap the output of that block '
                'or stage, e.g. backbone[3]. Or everything before it is frozen (frozen_stages, requires_grad=False): '
                'tap a later module.'
            )


@torch.no_grad()
def shares(losses: Mapping[str, Any], terms: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return each distiller's part of the total loss; the total is summed as mmengine does."""
    task = [tensor.detach().mean() for name, value in losses.items() if 'loss' in name for tensor in _tensors(value)]
    parts = {
        name: torch.stack([value.detach().float() for key, value in own.items() if 'loss' in key]).sum()
        for name, own in terms.items()
        if any('loss' in key for key in own)
    }
    total = torch.stack([t.float() for t in task]).sum() + sum(parts.values()) if task else sum(parts.values())
    whole = torch.as_tensor(total)
    whole = whole.masked_fill(whole == 0, 1)  # the total is 0 with an empty queue and no task loss
    return {f'distill.{name}.share': part / whole for name, part in parts.items()}


def _tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)
