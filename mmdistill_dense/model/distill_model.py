"""``DistillModel``: the student's own class, with a distillation step in its loss."""

from __future__ import annotations

import contextlib
import copy
import functools
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from mmdistill_dense.config.resolve import load_model, merge
from mmdistill_dense.distillers.base import Distiller, Progress, Recorded
from mmdistill_dense.model.build import Option, build_distillers, build_teachers, distiller_options, tie
from mmdistill_dense.networks.building import build_network
from mmdistill_dense.networks.inherit import Inherit, copy_inherited, parse_inherit
from mmdistill_dense.networks.recording import Recorder
from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.networks.trace import Traced
from mmdistill_dense.registry import MODELS
from mmdistill_dense.utils.random_streams import fork_rng, mix


@MODELS.register_module()
def DistillModel(
    student: Option,
    teacher: Option | None = None,
    distillers: Option | None = None,
    inherit: Sequence[Sequence[str]] | None = None,
    **student_keys: Any,
) -> nn.Module:
    """Build a student that distils from a teacher in its training step, and is an ordinary student in everything else.

    The result is an instance of a subclass of the student's own class: parameter names, ``predict``, checkpoints and
    tools that look at it see the plain network. Without distillers (and ``inherit``) it *is* the plain network (the
    control), and no teacher is built.

    Args:
        student: ``dict(cfg='mmseg::…', **overrides)`` or a whole model dict.
        teacher: The same with ``checkpoint`` (file, address or ``'auto'``), see :class:`FrozenTeacher`; or a dict of
            several by name.
        distillers: Options of the distillers by name, e.g. ``dict(kd=dict(type='LogitKD'))``; a constant
            ``loss_weight=0`` removes one.
        inherit: What the student starts from besides its own initialisation: pairs of prefixes ``(student, teacher)``,
            e.g. ``[('neck', 'neck'), ('bbox_head', 'bbox_head')]``, whose tensors are copied from the teacher; a third
            member names the teacher where there are several. See :mod:`mmdistill_dense.networks.inherit`.
        **student_keys: Every other key of the model config is merged over the student.

    Returns:
        The student.

    Raises:
        KeyError, ValueError, FileNotFoundError: For options that do not fit together, each naming the config key.
    """
    options = distiller_options(distillers or {})
    entries = parse_inherit(inherit)
    config = load_model(merge(student, student_keys), 'model.student')
    network = build_network(config)
    if not options and not entries:
        return network
    with fork_rng():
        parts = build_distillers(options, config.scope)
        teachers = build_teachers(teacher, parts, entries)
        traced = tie(network, config, parts, teachers, entries)
    student_class: Any = type(network)
    network.__class__ = _distilled_class(student_class)
    distilled: Any = network
    distilled._attach(parts, Distillation(teachers, Progress(), entries, traced))
    return network


@dataclass(eq=False)
class Distillation:
    """What a distilled student carries beside its modules: frozen teachers, place in the run, what it inherits.

    A copy of the student has one of its own, and shares the teachers until one of them is moved or cast.
    """

    teachers: dict[str, FrozenTeacher]
    progress: Progress
    inherit: Sequence[Inherit] = ()  # emptied once it is copied, and where the student's weights come from a file
    traced: Traced = field(default_factory=Traced)  # of the student
    attended: bool = False  # set by DistillHook

    def __post_init__(self) -> None:
        for teacher in self.teachers.values():
            teacher.users.add(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Distillation:
        return replace(self, teachers=dict(self.teachers), progress=copy.deepcopy(self.progress, memo))

    def __reduce__(self) -> Any:
        return Distillation, (self.teachers, self.progress, self.inherit, self.traced)

    def recorder(self, student: Any, taps: Iterable[Tap]) -> Recorder:
        """Return what records taps of the student."""
        return Recorder(student, taps, 'student_tap', overwritten=self.traced.overwritten)

    def part_from(self, name: str) -> FrozenTeacher:
        """Leave a teacher to the copies of this student; return the one in its place, which the next step loads."""
        self.teachers[name].users.discard(self)
        self.teachers[name] = self.teachers[name].unloaded()
        self.teachers[name].users.add(self)
        return self.teachers[name]

    def check_ready(self) -> None:
        """Raise a ``RuntimeError`` unless ``DistillHook`` runs and every teacher is loaded."""
        if not self.attended:
            raise RuntimeError(
                'A DistillModel is being trained without DistillHook, so nothing would set its schedules, random '
                'streams and checkpoints. Add to the config: default_hooks = '
                "dict(distill=dict(type='mmdistill_dense.DistillHook'))."
            )
        for teacher in self.teachers.values():
            if teacher.taps and teacher.network is None and teacher.receipt is None:
                raise RuntimeError(
                    f'{teacher.key} is not loaded: call init_weights() before training, as the runner does.'
                )


class Distilled:
    """The mixin that makes a student class a distilled one; it comes before that class in the bases."""

    distillers: nn.ModuleDict
    distillation: Distillation
    training: bool

    def _attach(self, distillers: Mapping[str, Distiller], distillation: Distillation) -> None:
        for distiller in distillers.values():
            distiller.progress = distillation.progress
        self.distillers = nn.ModuleDict(distillers)
        self.distillation = distillation
        module: Any = self
        module._register_state_dict_hook(_drop_distillers)
        module.register_load_state_dict_post_hook(_forgive_distillers)

    def init_weights(self) -> None:
        """Initialise the student as its class does, load the teachers, copy what it inherits from them."""
        # A student's own init_cfg would reach into the distillers, whose parameters are initialised already.
        modules: dict[str, Any] = self._modules  # type: ignore[attr-defined]
        distillers = modules.pop('distillers')
        try:
            super().init_weights()  # type: ignore[misc]
        finally:
            modules['distillers'] = distillers
        like = next(self.parameters())  # type: ignore[attr-defined]
        inherit = self.distillation.inherit
        givers = {entry.teacher for entry in inherit}
        for name, teacher in self.distillation.teachers.items():
            if teacher.taps or name in givers:
                teacher.load(like)
        copy_inherited(self, inherit, self.distillation.teachers)  # type: ignore[arg-type]
        self.distillation.inherit = ()  # called again, behind training, it must not undo that
        for teacher in self.distillation.teachers.values():
            if not teacher.taps:
                teacher.unload()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        before = next(self.parameters())  # type: ignore[attr-defined]
        device, dtype = before.device, before.dtype
        super()._apply(fn, recurse)  # type: ignore[misc]
        now = next(self.parameters())  # type: ignore[attr-defined]
        moved = (now.device, now.dtype) != (device, dtype)
        for name, teacher in self.distillation.teachers.items():
            shared = len(teacher.users) > 1
            if moved and (shared or now.is_meta):
                self._part_from(name)
            elif not shared:
                teacher.apply(fn)
        return self

    def to_empty(self, **options: Any) -> Any:
        """Move the student without its weights, as ``nn.Module`` does; the teachers keep theirs."""
        for name in self.distillation.teachers:
            self._part_from(name)
        return super().to_empty(**options)  # type: ignore[misc]

    def _part_from(self, name: str) -> None:
        teacher = self.distillation.part_from(name)
        for distiller in self.distillers.values():
            if distiller.teacher == name:
                distiller.frozen = teacher  # type: ignore[assignment]

    def __reduce_ex__(self, protocol: Any) -> Any:
        # pickle knows the student's class by name, this one is made from it
        _, _, *state = tuple(super().__reduce_ex__(protocol))
        return _blank, (type(self).__bases__[1],), *state

    def loss(self, inputs: Tensor, data_samples: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the student's own losses and, in training, each distiller's as ``distill.<name>.loss_…``.

        ``distill.<name>.share`` is that distiller's part of the total, for the log.
        """
        if not self.training:
            return super().loss(inputs, data_samples, **kwargs)  # type: ignore[misc]
        self.distillation.check_ready()
        distillers: dict[str, Any] = dict(self.distillers.items())
        active = {distiller.teacher for distiller in distillers.values() if distiller.weight() != 0}
        # The teachers run first: what they computed on the way is freed before the student's graph is built.
        teachers = self._teach(inputs, active)
        taps = [tap for d in distillers.values() if d.weight() != 0 for tap in [*d.student_taps, *d.context_taps]]
        recorder = self.distillation.recorder(self, taps)
        with recorder.recording() as student:
            losses = super().loss(inputs, data_samples, **kwargs)  # type: ignore[misc]
        recorder.check_complete()
        terms = self._compare(student, teachers, data_samples)
        return self._together(losses, terms)

    def _teach(self, inputs: Tensor, active: Collection[str | None]) -> dict[str | None, Recorded]:
        progress = self.distillation.progress
        recorded: dict[str | None, Recorded] = {}
        for name, teacher in self.distillation.teachers.items():
            if name in active:
                teacher.load(next(self.parameters()))  # type: ignore[attr-defined]  # where a move or a pickle left it
                recorded[name] = teacher.begin(inputs, mix(progress.seed, progress.iteration))
        return recorded

    def _compare(
        self, student: Recorded, teachers: Mapping[str | None, Recorded], data_samples: Any
    ) -> dict[str, dict[str, Tensor]]:
        distillers: dict[str, Any] = dict(self.distillers.items())
        asked = [(self.distillation.teachers[str(name)], recorded) for name, recorded in teachers.items()]
        for teacher, recorded in asked:
            teacher.join(recorded)
        _check_gradients(student, {str(tap) for d in distillers.values() for tap in d.student_taps})
        with contextlib.ExitStack() as stack:
            for teacher, _ in asked:
                stack.enter_context(teacher.sharing())
            return {n: d.step(student, teachers.get(d.teacher, {}), data_samples) for n, d in distillers.items()}

    def _together(self, losses: dict[str, Any], terms: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
        named = {f'distill.{name}.{key}': value for name, own in terms.items() for key, value in own.items()}
        return {**losses, **named, **_shares(losses, terms)}


@functools.cache
def _distilled_class(student: type[nn.Module]) -> type[nn.Module]:
    def fill(namespace: dict[str, Any]) -> None:
        namespace['__module__'] = __name__
        namespace['__doc__'] = f'{student.__name__} with a distillation step in its training loss.'
        # Of a compiled model the student alone is compiled: what is around it changes with the iteration.
        namespace['loss'] = torch.compiler.disable(Distilled.loss, recursive=False)
        for name in ('_teach', '_compare', '_together'):
            namespace[name] = torch.compiler.disable(getattr(Distilled, name))

    return types.new_class(f'Distilled{student.__name__}', (Distilled, student), exec_body=fill)


def _blank(student: Any) -> Any:
    """Return a distilled student without a state, for ``pickle`` to fill."""
    return object.__new__(_distilled_class(student))


def _drop_distillers(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name in [name for name in state if name.startswith(f'{prefix}distillers.')]:
        del state[name]


def _forgive_distillers(module: nn.Module, incompatible: Any) -> None:
    incompatible.missing_keys[:] = [
        name for name in incompatible.missing_keys if not (name.startswith('distillers.') or '.distillers.' in name)
    ]


def _check_gradients(student: Mapping[str, list[Tensor]], compared: Collection[str]) -> None:
    if not torch.is_grad_enabled():
        return
    for name, tensors in student.items():
        if name in compared and not all(tensor.requires_grad for tensor in tensors):
            raise ValueError(
                f'student_tap={name!r} carries no gradient, so distilling it would change nothing. Either it lies '
                'inside an activation-checkpointed block (with_cp=True, activation_checkpointing): tap the output of '
                'that block or stage, e.g. backbone[3]. Or everything before it is frozen (frozen_stages, '
                'requires_grad=False): tap a later place.'
            )


@torch.no_grad()
def _shares(losses: Mapping[str, Any], terms: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return each distiller's part of the total loss, summed as mmengine sums it."""
    task = [tensor.detach().mean() for name, value in losses.items() if 'loss' in name for tensor in _tensors(value)]
    parts = {
        name: torch.stack([value.detach().float() for key, value in own.items() if 'loss' in key]).sum()
        for name, own in terms.items()
        if any('loss' in key for key in own)
    }
    total = torch.stack([t.float() for t in task]).sum() + sum(parts.values()) if task else sum(parts.values())
    whole = torch.as_tensor(total)
    whole = whole.masked_fill(whole == 0, 1)  # a queue that is still empty, beside no task
    return {f'distill.{name}.share': part / whole for name, part in parts.items()}


def _tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)
