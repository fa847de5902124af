"""``DistillModel``: the student's own class, with a distillation step in its loss."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmdistill_dense.distillers.base import Distiller, Progress
from mmdistill_dense.dryrun import trace_pair
from mmdistill_dense.engine.seeding import fork_rng
from mmdistill_dense.registry import DISTILLERS, MODELS
from mmdistill_dense.taps import Recorder, Tap
from mmdistill_dense.teacher import FrozenTeacher, build_network, renormaliser
from mmdistill_dense.zoo import load_model, merge

Option = Mapping[str, Any]


SINGLE = 'teacher'  # the name of a teacher that stands alone


@MODELS.register_module()
def DistillModel(
    student: Option, teacher: Option | None = None, distillers: Option | None = None, **student_keys: Any
) -> nn.Module:
    """Build a student that distils from a teacher in its training step, and is an ordinary student in everything else.

    The result is an instance of a subclass of the student's own class: parameter names, ``predict``, checkpoints and
    tools that look at it see the plain network. Without distillers it *is* the plain network (the control), and no
    teacher is built.

    Args:
        student: ``dict(cfg='mmseg::…', **overrides)`` or a whole model dict.
        teacher: The same with ``checkpoint`` (file, address or ``'auto'``), see :class:`FrozenTeacher`; or a dict of
            several by name.
        distillers: Options of the distillers by name, e.g. ``dict(kd=dict(type='LogitKD'))``; a constant
            ``loss_weight=0`` removes one.
        **student_keys: Every other key of the model config is merged over the student.

    Returns:
        The student.

    Raises:
        KeyError, ValueError, FileNotFoundError: For options that do not fit together, each naming the config key.
    """
    options = _distiller_options(distillers or {})
    config = load_model(merge(student, student_keys), 'model.student')
    network = build_network(config)
    if not options:
        return network
    with fork_rng():
        parts = _build_distillers(options, config.scope)
        teachers = _build_teachers(teacher, parts)
        for one in teachers.values():
            one.renormalise = renormaliser(
                config.model.get('data_preprocessor'), one.config.model.get('data_preprocessor')
            )
        with DefaultScope.overwrite_default_scope(config.scope):
            _setup(network, parts, teachers, _crop_size(config.model))
    student_class: Any = type(network)
    network.__class__ = _distilled_class(student_class)
    distilled: Any = network
    distilled._attach(parts, Distillation(teachers, Progress()))
    return network


@dataclass
class Distillation:
    """What a distilled student carries beside its modules: the frozen teachers and the place in the run."""

    teachers: dict[str, FrozenTeacher]
    progress: Progress
    attended: bool = False  # set by DistillHook

    def check_ready(self) -> None:
        """Raise a ``RuntimeError`` unless ``DistillHook`` runs and every teacher is loaded."""
        if not self.attended:
            raise RuntimeError(
                'A DistillModel is being trained without DistillHook, so nothing would set its schedules, random '
                'streams and checkpoints. Add to the config: default_hooks = '
                "dict(distill=dict(type='mmdistill_dense.DistillHook'))."
            )
        for teacher in self.teachers.values():
            if teacher.network is None:
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
        """Initialise the student as its class does, then load the teachers."""
        # A student's own init_cfg would reach into the distillers, whose parameters are initialised already.
        modules: dict[str, Any] = self._modules  # type: ignore[attr-defined]
        distillers = modules.pop('distillers')
        try:
            super().init_weights()  # type: ignore[misc]
        finally:
            modules['distillers'] = distillers
        like = next(self.parameters())  # type: ignore[attr-defined]
        for teacher in self.distillation.teachers.values():
            teacher.load(like)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[misc]
        for teacher in self.distillation.teachers.values():
            teacher.apply(fn)
        return self

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
        teachers = {name: teacher(inputs) for name, teacher in self.distillation.teachers.items() if name in active}
        taps = [tap for d in distillers.values() if d.weight() != 0 for tap in d.student_taps]
        recorder = Recorder(self, taps, 'student_tap')  # type: ignore[arg-type]
        with recorder.recording() as student:
            losses = super().loss(inputs, data_samples, **kwargs)  # type: ignore[misc]
        recorder.check_complete()
        _check_gradients(student)
        terms = {name: d.step(student, teachers.get(d.teacher, {}), data_samples) for name, d in distillers.items()}
        shares = _shares(losses, terms)
        for name, parts in terms.items():
            losses.update({f'distill.{name}.{key}': value for key, value in parts.items()})
        return {**losses, **shares}


@functools.cache
def _distilled_class(student: type[nn.Module]) -> type[nn.Module]:
    def fill(namespace: dict[str, Any]) -> None:
        namespace['__module__'] = __name__
        namespace['__doc__'] = f'{student.__name__} with a distillation step in its training loss.'

    return types.new_class(f'Distilled{student.__name__}', (Distilled, student), exec_body=fill)


def _distiller_options(distillers: Option) -> dict[str, Option]:
    """Return the distillers that do something."""
    if not isinstance(distillers, Mapping) or not all(isinstance(option, Mapping) for option in distillers.values()):
        raise TypeError(
            f"model.distillers must be a dict of dicts by name, e.g. dict(kd=dict(type='LogitKD')), got {distillers!r}."
        )
    return {name: option for name, option in distillers.items() if option.get('loss_weight', 1) != 0}


def _build_distillers(options: Option, scope: str | None) -> dict[str, Distiller]:
    built = {}
    for name, option in options.items():
        if 'loss' in name or '.' in name:
            raise ValueError(f'model.distillers.{name}: a distiller\'s name may contain neither "loss" nor a dot.')
        arguments = dict(option)
        kind = arguments.pop('type', None)
        cls = DISTILLERS.get(kind) if isinstance(kind, str) else kind
        if cls is None:
            known = ', '.join(sorted(DISTILLERS.module_dict))
            raise KeyError(f'model.distillers.{name}.type={kind!r} is no distiller; known: {known}.')
        try:
            with DefaultScope.overwrite_default_scope(scope):
                distiller = cls(**arguments)
        except (TypeError, ValueError) as error:
            raise type(error)(f'model.distillers.{name}: {error}') from error
        distiller.name = name
        built[name] = distiller
    return built


def _build_teachers(option: Option | None, distillers: Mapping[str, Distiller]) -> dict[str, FrozenTeacher]:
    if not option:
        raise ValueError(f'model.teacher is not set, but there are distillers ({", ".join(distillers)}).')
    single = 'cfg' in option or 'type' in option or not all(isinstance(one, Mapping) for one in option.values())
    options = {SINGLE: option} if single else dict(option)
    for name, distiller in distillers.items():
        if distiller.teacher is None and len(options) == 1:
            distiller.teacher = next(iter(options))
        if distiller.teacher not in options:
            found = 'one unnamed teacher' if single else f'the teachers {", ".join(map(str, options))}'
            raise ValueError(f'model.distillers.{name}.teacher={distiller.teacher!r}, but model.teacher holds {found}.')
    teachers = {}
    for name, one in options.items():
        taps = [tap for d in distillers.values() if d.teacher == name for tap in d.teacher_taps]
        if taps:
            teachers[name] = FrozenTeacher(one, 'model.teacher' if single else f'model.teacher.{name}')
            teachers[name].taps = list(dict.fromkeys(taps))
    return teachers


def _setup(
    network: nn.Module,
    distillers: Mapping[str, Distiller],
    teachers: Mapping[str, FrozenTeacher],
    size: tuple[int, int] | None,
) -> None:
    student_taps: list[Tap] = [tap for distiller in distillers.values() for tap in distiller.student_taps]
    student, by_teacher = trace_pair(network, student_taps, teachers, size)
    with torch.device('cpu'):
        for distiller in distillers.values():
            distiller.setup(student, by_teacher[str(distiller.teacher)])


def _crop_size(model: Option) -> tuple[int, int] | None:
    size = (model.get('data_preprocessor') or {}).get('size')
    return (int(size[0]), int(size[1])) if size else None


def _drop_distillers(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name in [name for name in state if name.startswith(f'{prefix}distillers.')]:
        del state[name]


def _forgive_distillers(module: nn.Module, incompatible: Any) -> None:
    incompatible.missing_keys[:] = [
        name for name in incompatible.missing_keys if not (name.startswith('distillers.') or '.distillers.' in name)
    ]


def _check_gradients(student: Mapping[str, list[Tensor]]) -> None:
    if not torch.is_grad_enabled():
        return
    for name, tensors in student.items():
        if not all(tensor.requires_grad for tensor in tensors):
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
    parts = {name: torch.stack([v.detach().float() for v in t.values()]).sum() for name, t in terms.items() if t}
    total = torch.stack([t.float() for t in task]).sum() + sum(parts.values()) if task else sum(parts.values())
    return {f'distill.{name}.share': part / total for name, part in parts.items()}


def _tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)
