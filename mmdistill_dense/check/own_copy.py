"""Compare what a network gives at its taps in training with what a frozen copy of it gives there.

A student that equals its teacher should have nothing to learn. But it has if a module computes something else in
training than in evaluation, if it draws random numbers, or if a tensor is overwritten after its tap.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmdistill_dense.config.resolve import ModelConfig
from mmdistill_dense.model.distill_model import Distilled
from mmdistill_dense.model.distillation import distillers_of
from mmdistill_dense.networks.acceleration import Acceleration
from mmdistill_dense.networks.building import move
from mmdistill_dense.networks.modes import train_without_noise
from mmdistill_dense.networks.recording import Recorder
from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.networks.teacher_plan import SINGLE, TeacherOption
from mmdistill_dense.networks.trace import trace_pair
from mmdistill_dense.utils.protocols import Network, Samples
from mmdistill_dense.utils.random_streams import fork_rng

Inputs = Tensor | Sequence[Tensor]


def with_weights(option: TeacherOption, state: Mapping[str, Tensor]) -> Network:
    """Return a network with these weights, in eval mode and not folded."""
    network = option.build()
    network.load_state_dict(state)
    return network.requires_grad_(False)


@torch.no_grad()
def own_copy_gaps(
    config: ModelConfig,
    state: Mapping[str, Tensor],
    taps: Sequence[Tap],
    inputs: Inputs,
    data_samples: Samples,
) -> dict[str, float]:
    """Compare a training pass of a network with a pass of its frozen copy; norms and dropout are as in evaluation.

    Args:
        config: The network.
        state: Its weights.
        taps: The places to compare.
        inputs: The preprocessed batch, (B, C, H, W) or a list of views.
        data_samples: Its labels.

    Returns:
        By tap the largest difference, as a share of the largest value that the copy gives; infinity if number or
        shapes of the tensors differ.
    """
    first = inputs if isinstance(inputs, Tensor) else inputs[0]
    option = TeacherOption('the copy', SINGLE, config, acceleration=Acceleration(fold_bn=False))
    network: Any = with_weights(option, state)  # a student of pre-training takes views
    place = dict(device=first.device, dtype=first.dtype)
    with fork_rng():
        traced, by_teacher = trace_pair(network, taps, {'copy': (option, taps)}, (first.shape[2], first.shape[3]))
        frozen = FrozenTeacher(option, by_teacher['copy'].plan(taps))
        frozen.adopt(move(with_weights(option, state), **place))
        train_without_noise(move(network, **place))
        recorder = Recorder(network, taps, 'tap', overwritten=traced.overwritten)
        torch.manual_seed(0)
        with recorder.recording() as own:
            network.loss(inputs, copy.deepcopy(data_samples))
        recorder.check_complete()
        torch.manual_seed(1)
        other = frozen(inputs)
    return {str(tap): _gap(own[str(tap)], other[str(tap)]) for tap in taps}


def pair_gaps(model: Distilled, student: ModelConfig, inputs: Inputs, data_samples: Samples) -> dict[str, float]:
    """Return the gaps of a distilled model's taps, its teachers' among them, by ``'student_tap X'`` or ``'KEY tap X'``.

    Left out are RoI heads, which see other RoIs in each pass, and teachers that have no training of their own or do not
    learn from these labels.

    Args:
        model: With loaded teachers that have not run yet.
        student: The student's config.
        inputs: The preprocessed batch.
        data_samples: Its labels.
    """
    distillers = [one for one in distillers_of(model).values() if not one.extra_student_taps]
    gaps = {}
    taps = list(dict.fromkeys(tap for one in distillers for tap in one.student_taps))
    if taps:
        found = own_copy_gaps(student, model.state_dict(), taps, inputs, data_samples)
        gaps.update({f'student_tap {tap}': gap for tap, gap in found.items()})
    for teacher in model.distillation.teachers.values():
        if not teacher.taps or not hasattr(teacher.network, 'loss'):
            continue
        seen = teacher.renormalised(inputs) if isinstance(inputs, Tensor) else [teacher.renormalised(x) for x in inputs]
        with contextlib.suppress(Exception):  # other labels than it was made for
            found = own_copy_gaps(teacher.config, teacher.as_loaded().state_dict(), teacher.taps, seen, data_samples)
            gaps.update({f'{teacher.key} tap {tap}': gap for tap, gap in found.items()})
    return gaps


def _gap(own: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    if [x.shape for x in own] != [y.shape for y in other]:
        return float('inf')
    gaps = [
        float((x.float() - y.float()).abs().max() / y.float().abs().max().clamp_min(1e-12))
        for x, y in zip(own, other, strict=True)
        if x.numel()
    ]
    return max(gaps, default=0.0)
