"""What the distillers of a model compare in one step, and whether a copy of the network gives the same there."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from mmdistill_dense.config.resolve import ModelConfig
from mmdistill_dense.distillers.base import Distiller
from mmdistill_dense.distillers.feature import FeatureDistiller
from mmdistill_dense.model.distill_model import Distilled, distillers_of
from mmdistill_dense.networks.acceleration import Acceleration
from mmdistill_dense.networks.building import move
from mmdistill_dense.networks.modes import train_without_noise
from mmdistill_dense.networks.recording import Recorder
from mmdistill_dense.networks.taps import Tap, find_module
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.networks.trace import SINGLE, TeacherOption, trace_pair
from mmdistill_dense.utils.reproducible import fork_rng
from mmdistill_dense.utils.runner_internals import Network, Samples

Shape = list[int]


@dataclass
class TapRow:
    """A pair of compared tensors; ``aligned`` is the compared shape, ``None`` if the method compares in its own way."""

    distiller: str
    student_tap: str
    student_module: str
    student_shape: Shape
    teacher_tap: str
    teacher_module: str
    teacher_shape: Shape
    aligned: Shape | None = None


@dataclass
class Adapter:
    """A module that a distiller trains beside the student; ``output`` is the shape of its last output."""

    distiller: str
    name: str
    module: str
    parameters: int
    output: Shape | None = None


class Watch:
    """Records the inputs of a model's distillers and the outputs of their modules, inside of :meth:`open`."""

    def __init__(self, model: Distilled, teachers: Mapping[str, FrozenTeacher]) -> None:
        self.model = model
        self.teachers = teachers
        self.distillers = distillers_of(model)
        self.given: dict[str, tuple[dict[str, list[Shape]], dict[str, list[Shape]]]] = {}
        self.outputs: dict[tuple[str, str], Shape] = {}
        self.flat: dict[str, None] = {}

    @contextmanager
    def open(self) -> Iterator[Watch]:
        handles = []
        try:
            for name, distiller in self.distillers.items():
                handles.append(distiller.register_forward_pre_hook(self._note_given(name)))
                for path, module in distiller.named_modules():
                    if path:
                        handles.append(module.register_forward_hook(self._note_output(name, path)))
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def rows(self) -> list[TapRow]:
        """Return the pairs in the order of the distillers and their taps."""
        return [row for name in self.distillers if name in self.given for row in self._rows(name)]

    def adapters(self) -> list[Adapter]:
        """Return the trained modules of all distillers; module lists are taken apart."""
        return [
            Adapter(name, path, type(part).__name__, _count(part), self.outputs.get((name, path)))
            for name, distiller in self.distillers.items()
            for path, part in _parts(distiller)
            if _count(part)
        ]

    def _rows(self, name: str) -> Iterator[TapRow]:
        distiller = self.distillers[name]
        student, teacher = self.given[name]
        frozen = self.teachers[str(distiller.teacher_name)].network
        assert frozen is not None, 'a checked teacher is loaded'
        level, missing = 0, list[int]()
        for s_tap, t_tap in zip(distiller.student_taps, distiller.teacher_taps, strict=True):
            modules = _class_of(self.model, s_tap), _class_of(frozen, t_tap)
            if distiller.teacher_gives:
                shape = student[str(s_tap)][0]
                yield TapRow(name, str(s_tap), modules[0], shape, distiller.teacher_gives, '', shape)
                continue
            for s, t in zip_longest(student[str(s_tap)], teacher[str(t_tap)], fillvalue=missing):
                aligned = self._aligned(distiller, level, s, t)
                yield TapRow(name, str(s_tap), modules[0], s, str(t_tap), modules[1], t, aligned)
                level += 1

    def _aligned(self, distiller: Distiller, level: int, student: Shape, teacher: Shape) -> Shape | None:
        if not isinstance(distiller, FeatureDistiller):
            return None
        own = self.outputs.get((distiller.name, f'aligns.{level}'), student)
        return [*own[:2], *teacher[2:]] if distiller.resize == 'student' else own

    def _note_given(self, name: str) -> Callable[..., None]:
        def note(_: nn.Module, given: tuple[Any, ...]) -> None:
            student, teacher = ({tap: [list(t.shape) for t in found] for tap, found in x.items()} for x in given[:2])
            self.given.setdefault(name, (student, teacher))  # a second call compares the pictures without labels
            for tap in self.distillers[name].teacher_taps:
                if all(_is_flat(tensor) for tensor in given[1][str(tap)]):
                    self.flat[f'{name}: {tap}'] = None

        return note

    def _note_output(self, name: str, path: str) -> Callable[..., None]:
        def note(_: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Tensor) and not self.distillers[name].state.part:
                self.outputs[name, path] = list(output.shape)

        return note


def _parts(distiller: nn.Module, prefix: str = '') -> Iterator[tuple[str, nn.Module]]:
    for name, child in distiller.named_children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from _parts(child, f'{prefix}{name}.')
        else:
            yield f'{prefix}{name}', child


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def _class_of(network: nn.Module, tap: Tap) -> str:
    return type(find_module(network, tap, 'tap')).__name__


def _is_flat(tensor: Tensor) -> bool:
    """Tell whether a map is the same at all its positions, so there is nothing to learn from it."""
    positions = tensor.detach().float().flatten(2) if tensor.dim() > 2 else tensor.detach().float().flatten()[None]
    return positions.shape[-1] > 1 and bool((torch.amax(positions, -1) == torch.amin(positions, -1)).all())


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
    """Compare a training pass of a network with a pass of its frozen copy; norms and dropout are as in evaluation."""
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
    """Return the gaps of a distilled model's taps and of its teachers', by ``'student_tap X'`` or ``'KEY tap X'``."""
    # RoI heads see other RoIs in each pass; some teachers have no training of their own, or not from these labels
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
