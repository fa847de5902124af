"""Puts the parts of a ``DistillModel`` together: distillers and teachers from their options, tied by a dry run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.registry import DefaultScope
from torch import nn

from mmdistill_dense.config.resolve import ModelConfig, is_single_teacher
from mmdistill_dense.config.unknown_keys import check_options, hint
from mmdistill_dense.distillers.base import Distiller
from mmdistill_dense.networks.inherit import Inherit, giving_teachers
from mmdistill_dense.networks.renormalise import renormaliser
from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.networks.trace import Traced, trace_pair
from mmdistill_dense.registry import DISTILLERS

Option = Mapping[str, Any]

SINGLE = 'teacher'  # the name of a teacher that stands alone


def distiller_options(distillers: Option) -> dict[str, Option]:
    """Return the distillers that do something.

    Raises:
        TypeError: Unless it is a dict of dicts.
    """
    if not isinstance(distillers, Mapping) or not all(isinstance(option, Mapping) for option in distillers.values()):
        raise TypeError(
            f"model.distillers must be a dict of dicts by name, e.g. dict(kd=dict(type='LogitKD')), got {distillers!r}."
        )
    return {name: option for name, option in distillers.items() if option.get('loss_weight', 1) != 0}


def build_distillers(options: Option, scope: str | None) -> dict[str, Distiller]:
    """Build the distillers in the student's scope.

    Raises:
        KeyError, TypeError, ValueError: For an unknown type, a name that logs would misread, or a wrong option.
    """
    built = {}
    for name, option in options.items():
        if 'loss' in name or '.' in name:
            raise ValueError(f'model.distillers.{name}: a distiller\'s name may contain neither "loss" nor a dot.')
        arguments = dict(option)
        kind = arguments.pop('type', None)
        cls = DISTILLERS.get(kind) if isinstance(kind, str) else kind
        if cls is None:
            known = ', '.join(sorted(DISTILLERS.module_dict))
            close = hint(str(kind), DISTILLERS.module_dict)
            raise KeyError(f'model.distillers.{name}.type={kind!r} is no distiller; known: {known}.{close}')
        check_options(cls, arguments, f'model.distillers.{name}')
        try:
            with DefaultScope.overwrite_default_scope(scope):
                distiller = cls(**arguments)
        except (KeyError, TypeError, ValueError) as error:
            raise type(error)(f'model.distillers.{name}: {error.args[0] if error.args else error}') from error
        distiller.name = name
        built[name] = distiller
    return built


def build_teachers(
    option: Option | None, distillers: Mapping[str, Distiller], inherit: Sequence[Inherit]
) -> dict[str, FrozenTeacher]:
    """Build, not load, the teachers that are used, each with the taps it serves; give every distiller its own.

    Raises:
        ValueError: Without a teacher, or for a distiller or an inheritance that names none of them.
    """
    if not option:
        use = f'there are distillers ({", ".join(distillers)})' if distillers else 'model.inherit copies from it'
        raise ValueError(f'model.teacher is not set, but {use}.')
    single = is_single_teacher(option)
    options = {SINGLE: option} if single else dict(option)
    for name, distiller in distillers.items():
        if distiller.teacher is None and len(options) == 1:
            distiller.teacher = next(iter(options))
        if distiller.teacher not in options:
            found = 'one unnamed teacher' if single else f'the teachers {", ".join(map(str, options))}'
            raise ValueError(f'model.distillers.{name}.teacher={distiller.teacher!r}, but model.teacher holds {found}.')
    givers = giving_teachers(inherit, options)
    teachers = {}
    for name, one in options.items():
        taught = [distiller for distiller in distillers.values() if distiller.teacher == name]
        if not taught and name not in givers:
            continue
        teachers[name] = FrozenTeacher(one, 'model.teacher' if single else f'model.teacher.{name}')
        teachers[name].taps = list(dict.fromkeys(tap for distiller in taught for tap in distiller.teacher_taps))
        for distiller in taught:
            distiller.frozen = teachers[name]
    return teachers


def tie(
    network: nn.Module,
    config: ModelConfig,
    distillers: Mapping[str, Distiller],
    teachers: Mapping[str, FrozenTeacher],
    inherit: Sequence[Inherit],
) -> Traced:
    """Tell distillers the shapes of their taps, and teachers what they must hold and how they see the batch.

    Args:
        network: The built student.
        config: What it was built from; its preprocessor names normalisation and training size.
        distillers: As built; they make their parameters here.
        teachers: As built; nothing is loaded yet.
        inherit: What the student will copy.

    Returns:
        What the dry run found in the student.

    Raises:
        KeyError, ValueError: For taps that do not exist or cannot be compared.
    """
    preprocessor = config.model.get('data_preprocessor') or {}
    taps: list[Tap] = [tap for d in distillers.values() for tap in [*d.student_taps, *d.context_taps]]
    with DefaultScope.overwrite_default_scope(config.scope):
        student, by_teacher = trace_pair(network, taps, teachers, _size(preprocessor))
    for teacher in teachers.values():
        teacher.renormalise = renormaliser(preprocessor, teacher.preprocessor, teacher.key)
    for entry in inherit:
        teachers[str(entry.teacher)].require((entry.source.split('.')[0],))
    for distiller in distillers.values():
        teachers[str(distiller.teacher)].require(distiller.teacher_parts)
        with DefaultScope.overwrite_default_scope(config.scope), torch.device('cpu'):
            distiller.setup(student.shapes, by_teacher[str(distiller.teacher)].shapes)
    return student


def _size(preprocessor: Mapping[str, Any]) -> tuple[int, int] | None:
    size = preprocessor.get('size')
    return (int(size[0]), int(size[1])) if size else None
