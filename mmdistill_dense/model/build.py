"""Build the parts of a ``DistillModel``, in one direction.

Options -> distillers, not bound yet -> taps of those that leave them open -> trace of student and teachers -> a plan
for each teacher -> the frozen teachers -> every distiller is bound to its teacher, the run's state and the shapes of
its taps.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.registry import DefaultScope
from torch import nn

from mmdistill_dense.config.resolve import (
    TASKS,
    ModelConfig,
    load_model,
    merge,
    normalised_anew,
    teachers_of,
    without_effect,
)
from mmdistill_dense.config.unknown_keys import check_options, hint
from mmdistill_dense.config.values import ignored_labels, listed, num_classes
from mmdistill_dense.distillers.base import Distiller
from mmdistill_dense.distillers.ground_truth import dense_head
from mmdistill_dense.model.distill_model import Distillation, Distilled, StepPlugin, distilled_class
from mmdistill_dense.networks.building import build_network, copy_network
from mmdistill_dense.networks.inputs import grey_copies, make_renormaliser, with_normalisation
from mmdistill_dense.networks.taps import AUTO_LAST, Tap, no_scores
from mmdistill_dense.networks.teacher import FrozenTeacher, Inherit, parse_inherit, with_teacher_names
from mmdistill_dense.networks.trace import SINGLE, TeacherOption, trace_pair
from mmdistill_dense.registry import DISTILLERS, MODELS, STEP_PLUGINS, kind_of
from mmdistill_dense.utils.reproducible import fork_rng
from mmdistill_dense.utils.runner_internals import Network
from mmdistill_dense.utils.validate import text_of
from mmdistill_dense.utils.version import removed

Option = Mapping[str, Any]


@MODELS.register_module()
def DistillModel(
    student: Option | ModelConfig,
    teacher: Option | None = None,
    distillers: Option | None = None,
    inherit: Sequence[Sequence[str]] | None = None,
    unlabelled: Option | None = None,
    **student_keys: Any,
) -> Network:
    """Build a student that distils from a teacher in its training step and is an ordinary student in everything else.

    The result is an instance of a subclass of the student's own class: parameter names, ``predict`` and checkpoints are
    those of the plain network. Without distillers and ``inherit`` it *is* the plain network (the control), and no
    teacher is built.

    Args:
        student: ``dict(cfg='mmseg::…', **overrides)``, a whole model dict, or one that is resolved.
        teacher: The same with ``checkpoint`` (file, address or ``'auto'``), see :class:`FrozenTeacher`; or a dict of
            several by name.
        distillers: Options of the distillers by name, e.g. ``dict(kd=dict(type='LogitKD'))``; ``loss_weight=0``
            removes one.
        inherit: What the student copies from the teacher at its start: pairs of prefixes ``(student, teacher)``,
            e.g. ``[('neck', 'neck'), ('bbox_head', 'bbox_head')]``; a third member names the teacher where there are
            several. See :func:`~mmdistill_dense.networks.teacher.copy_inherited`.
        unlabelled: Pictures without labels on which the distillers teach too, e.g. ``dict(data_root='data/more',
            ratio=1)``, see :class:`~mmdistill_dense.unlabelled.step.UnlabelledOption`; ignored without distillers.
        **student_keys: Further keys of the model config, which are merged over the student.
    """
    distillers = distillers or {}
    if isinstance(distillers, Mapping):  # mmengine leaves the word where the base has no such key
        distillers = {name: option for name, option in distillers.items() if name != '_delete_'}
    if not isinstance(distillers, Mapping) or not all(isinstance(option, Mapping) for option in distillers.values()):
        raise TypeError(
            f"model.distillers must be a dict of dicts by name, e.g. dict(kd=dict(type='LogitKD')), got {distillers!r}."
        )
    options = {name: option for name, option in distillers.items() if option.get('loss_weight', 1) != 0}
    entries = parse_inherit(inherit)
    pictures: list[StepPlugin] = [] if unlabelled is None else [STEP_PLUGINS.get('Unlabelled')(unlabelled)]
    if isinstance(student, ModelConfig):
        config = student
    else:
        for sentence in without_effect({'student': student, **student_keys}) + normalised_anew(student, student_keys):
            print_log(sentence, 'current', logging.WARNING)
        config = load_model(merge(student, student_keys, 'model.student'), 'model.student')
        config.beside = student_keys
    network = build_network(config)
    if pictures and not options:
        print_log('model.unlabelled is ignored: without distillers, such pictures teach nothing.', 'current')
    if not options and not entries:
        return network
    if options and not hasattr(type(network), 'loss'):
        raise ValueError(
            f'model.student: {type(network).__name__} needs a method loss(inputs, data_samples), which its forward '
            "returns for mode='loss', as the networks of mmseg and mmdet do."
        )
    with fork_rng():
        parts = build_distillers(options, config.scope)
        extras = pictures if parts else []
        distillation = build_distillation(network, config, parts, teacher, entries, extras)
        for extra in extras:
            extra.attach(network, parts, distillation.traced.heads or ())
    kind: Any = type(network)  # mypy takes no class for hashable, which a cached function needs
    network.__class__ = distilled_class(kind)
    assert isinstance(network, Distilled)
    network._attach(parts, distillation)
    return network


def build_distillers(options: Option, scope: str | None) -> dict[str, Distiller]:
    """Build the distillers in the student's scope, which tells the task for their ``settings``."""
    built = {}
    for name, option in options.items():
        if not isinstance(name, str) or not name or 'loss' in name or '.' in name or hasattr(nn.ModuleDict(), name):
            raise ValueError(
                f'model.distillers.{name}: the name of a distiller is a text without "loss" or a dot, and no word of '
                'torch such as items, training or forward.'
            )
        arguments, cls = dict(option), kind_of(DISTILLERS, option)
        kind = arguments.pop('type', None)
        if cls is None:
            names = ', '.join(sorted(DISTILLERS.module_dict))
            close = hint(str(kind), DISTILLERS.module_dict)
            raise KeyError(f'model.distillers.{name}.type={kind!r} is not a distiller; known: {names}.{close}')
        settings = ''
        if 'settings' in arguments:
            from mmdistill_dense.distillers.fragments import expand

            arguments, settings = expand(cls, arguments, TASKS.get(scope or ''), f'model.distillers.{name}')
        if arguments.pop('balance', None) is not None:
            raise TypeError(f'model.distillers.{name}: {removed("balance")}')
        check_options(cls, arguments, f'model.distillers.{name}')
        if settings:
            print_log(f'model.distillers.{name}.settings={settings}', 'current')
        try:
            with DefaultScope.overwrite_default_scope(scope):
                distiller = cls(**arguments)
            if not isinstance(distiller, Distiller):
                class_name = type(distiller).__name__
                raise TypeError(f'{kind!r} makes a {class_name}, no Distiller: derive your class from it.')
            for side in ('extra_student_taps', 'extra_teacher_taps'):
                setattr(distiller, side, [Tap.parse(tap) for tap in listed(getattr(distiller, side))])
        except (KeyError, TypeError, ValueError) as error:
            raise type(error)(f'model.distillers.{name}: {text_of(error)}') from error
        distiller.settings = settings
        built[name] = distiller
    return built


def build_distillation(
    network: Network,
    config: ModelConfig,
    distillers: Mapping[str, Distiller],
    teacher: Option | None,
    inherit: Sequence[Inherit],
    extras: Sequence[StepPlugin] = (),
) -> Distillation:
    """Trace student and teachers, plan how the teachers run, and bind every distiller to its teacher.

    The distillers make their parameters here; no teacher is loaded yet.
    """
    options, inherit, taught_by = _used_teachers(teacher, distillers, inherit)
    preprocessor = config.model.get('data_preprocessor') or {}
    size = (int(sides[0]), int(sides[1])) if (sides := preprocessor.get('size')) else None
    with DefaultScope.overwrite_default_scope(config.scope):
        choose_taps(network, distillers, {key: options[name] for key, name in taught_by.items()}, size)
    for key, distiller in distillers.items():
        option = options[taught_by[key]]
        if option.grid is not None and distiller.teacher_parts != ():
            problem = f"{type(distiller).__name__} runs the teacher on places of the student's pictures"
            raise ValueError(f'model.distillers.{key}: {problem}: leave {option.key}.scale and .fit out.')
        score_taps = distiller.teacher_taps if option.grid and option.grid.scale != 1 and distiller.needs_scores else ()
        if names := [str(tap) for tap in score_taps if dense_head(tap, option.config)]:
            problem = f'with {option.key}.scale, a level of {", ".join(names)} finds objects of another size'
            raise ValueError(f'model.distillers.{key}: {problem}: leave scale out, or compare the neck.')
        distiller.check_networks(f'model.distillers.{key}', config, option.config)
    taught = {name: {key: d for key, d in distillers.items() if taught_by[key] == name} for name in options}
    taps = {name: _with_keys({key: [*d.teacher_taps, *d.extra_teacher_taps] for key, d in group.items()}, 'teacher_tap')
            for name, group in taught.items()}  # fmt: skip
    with DefaultScope.overwrite_default_scope(config.scope):
        student, traced = trace_pair(
            network,
            _with_keys({key: distiller.recorded_taps for key, distiller in distillers.items()}, 'student_tap'),
            {name: (options[name], teacher_taps) for name, teacher_taps in taps.items()},
            size,
        )
    normalised = with_normalisation(preprocessor, config.scope)
    teachers = {}
    for name, option in options.items():
        inherited = [(entry.source.split('.')[0],) for entry in inherit if entry.teacher == name]
        called = [distiller.teacher_parts for distiller in taught[name].values()]
        if taps[name] and traced[name].preprocessor is None:
            raise ValueError(
                f'{option.key}: {option.config.model.get("type")} does not say how its pictures are normalised: set '
                f'{option.key}.data_preprocessor=dict(mean=[…], std=[…], bgr_to_rgb=True) as in its training.'
            )
        copies = grey_copies(student.channels, traced[name].channels, option.key)
        pixels = make_renormaliser(normalised, traced[name].preprocessor, option.key, copies)
        teachers[name] = FrozenTeacher(option, replace(traced[name].plan([*inherited, *called]), renormalise=pixels))
    distillation = Distillation(teachers, config, inherit=inherit, traced=student, extras=extras)
    distillation.state.ignored_labels = frozenset(ignored_labels(config.model))
    distillation.state.classes = num_classes(config.model)
    for key, distiller in distillers.items():
        name = taught_by[key]
        if traced[name].features_alone and distiller.needs_scores:
            raise ValueError(no_scores(f'model.distillers.{key}: {type(distiller).__name__}', 'teacher', "'map'"))
        # Each from the same stream, so that its first weights depend on no other, nor on their order in a config.
        with fork_rng(), DefaultScope.overwrite_default_scope(config.scope), torch.device('cpu'):
            distiller.bind(key, teachers[name], distillation.state, student.shapes, traced[name].shapes)
    return distillation


def choose_taps(
    network: Network,
    distillers: Mapping[str, Distiller],
    teachers: Mapping[str, TeacherOption],
    size: tuple[int, int] | None,
) -> None:
    """Give each distiller with ``student_tap='auto'`` its taps, and log them; ``'auto[-1]'`` gets the last pair.

    ``teachers`` is the teacher of each distiller, ``size`` the training crop's, 512 x 512 if it is None.
    """
    choosing = {name: distiller for name, distiller in distillers.items() if distiller.auto}
    if not choosing:
        return
    from mmdistill_dense.networks.auto_taps import discover, nothing_to_pair, pair_taps

    student_maps = discover(lambda: copy_network(network), size, trains=True)
    builders = {teachers[name].name: teachers[name].build for name in choosing}
    maps_of_teachers = {name: discover(build, size) for name, build in builders.items()}
    for name, distiller in choosing.items():
        key, teacher_maps = f'model.distillers.{name}', maps_of_teachers[teachers[name].name]
        chosen = pair_taps(student_maps, teacher_maps)
        if not chosen.pairs:
            raise nothing_to_pair(key, student_maps, teacher_maps, chosen)
        if distiller.auto == AUTO_LAST:
            chosen = replace(chosen, pairs=chosen.pairs[-1:])
        distiller.choose_taps([(pair.student.tap, pair.teacher.tap) for pair in chosen.pairs])
        print_log(f'{key}.student_tap={distiller.auto!r} compares {chosen}', 'current')


def _used_teachers(
    teacher: Option | None, distillers: Mapping[str, Distiller], inherit: Sequence[Inherit]
) -> tuple[dict[str, TeacherOption], list[Inherit], dict[str, str]]:
    """Return the used teachers, the entries with their teachers' names, and the name of each distiller's teacher."""
    if not teacher:
        use = f'there are distillers ({", ".join(distillers)})' if distillers else 'model.inherit copies from it'
        raise ValueError(f'model.teacher is not set, but {use}.')
    by_name = {key.removeprefix('teacher.'): (key, option) for key, option in teachers_of({'teacher': teacher}).items()}
    entries, taught_by = with_teacher_names(inherit, by_name), {}
    for key, distiller in distillers.items():
        name = next(iter(by_name)) if distiller.teacher_name is None and len(by_name) == 1 else distiller.teacher_name
        if name not in by_name:
            names = 'one unnamed teacher' if [*by_name] == [SINGLE] else f'the teachers {", ".join(by_name)}'
            raise ValueError(f'model.distillers.{key}.teacher={name!r}, but model.teacher holds {names}.')
        taught_by[key] = str(name)
    used = {*taught_by.values(), *(entry.teacher for entry in entries)}
    options = {name: TeacherOption.parse(option, f'model.{key}', name)
               for name, (key, option) in by_name.items() if name in used}  # fmt: skip
    return options, entries, taught_by


def _with_keys(taps: Mapping[str, Sequence[Tap]], option: str) -> list[Tap]:
    """Return the taps of some distillers, each once; errors name the first distiller that has it."""
    members = [(key, tap) for key, group in taps.items() for tap in group]
    return list(dict.fromkeys(replace(tap, key=f'model.distillers.{key}.{option}') for key, tap in members))
