"""Record what the distillers of a model compare in one step: taps, shapes and adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from mmdistill_dense.distillers.base import Distiller
from mmdistill_dense.distillers.feature import FeatureDistiller
from mmdistill_dense.model.distill_model import Distilled
from mmdistill_dense.model.distillation import distillers_of
from mmdistill_dense.networks.find_tap import find_module
from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.networks.teacher import FrozenTeacher

Shape = list[int]


@dataclass
class TapRow:
    """A pair of compared tensors: their taps, and their shapes (with the batch) when tapped and when compared
    (``aligned``; ``None`` if the method compares them in its own way)."""

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
    """Record the inputs of a model's distillers and the outputs of their modules, inside of :meth:`open`.

    Args:
        model: A ``DistillModel``.
        teachers: Its loaded teachers by name.
    """

    def __init__(self, model: Distilled, teachers: Mapping[str, FrozenTeacher]) -> None:
        self.model = model
        self.teachers = teachers
        self.distillers = distillers_of(model)
        self.given: dict[str, tuple[dict[str, list[Shape]], dict[str, list[Shape]]]] = {}
        self.outputs: dict[tuple[str, str], Shape] = {}
        self.flat: dict[str, None] = {}

    @contextmanager
    def open(self) -> Iterator[Watch]:
        """Register hooks on the distillers, and remove them afterwards."""
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
        def note(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            student, teacher = (
                {tap: [list(t.shape) for t in found] for tap, found in x.items()} for x in arguments[:2]
            )
            self.given.setdefault(name, (student, teacher))  # a second call compares the pictures without labels
            for tap in self.distillers[name].teacher_taps:
                if all(_is_flat(tensor) for tensor in arguments[1][str(tap)]):
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
