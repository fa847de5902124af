"""The distillers of the methods that ``new`` writes, with ``settings='auto'``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

import mmdistill_dense.distillers  # noqa: F401  registers the methods
from mmdistill_dense.distillers.feature import FeatureDistiller
from mmdistill_dense.distillers.pcd.queue_size import LEAST_TRAINING
from mmdistill_dense.distillers.presets import AUTO, put_all
from mmdistill_dense.networks.find_tap import find_module
from mmdistill_dense.project.sides import Side
from mmdistill_dense.recipes.compose import methods, option_files
from mmdistill_dense.recipes.fits import best
from mmdistill_dense.registry import DISTILLERS

DEFAULTS = {'seg': 'pcd', 'det': 'pkd'}  # docs/results.md, "Earlier trials"
SMALL_DEFAULT = 'cwd'  # where PCD cannot fill its queue
_LEAST_STEPS = 5  # of PCD: its weight is measured in the first quarter, once the queue holds keys
FOUNDATION_DEFAULT = 'featurematch'
_WORDS = re.compile(r'[A-Z]+(?=[A-Z][a-z])|[A-Z][a-z0-9]+|[A-Z]+|[a-z0-9]+')
_LEARNING = 2000  # steps in which MasKD learns its tokens


def distillers_for(method: str, student: Side, teacher: Side | None, network: Any, steps: int) -> dict[str, Any]:
    """Return the distillers of a method for a student, by name; without ``teacher``, for a foundation model's map.

    ``network`` is the teacher on the meta device, or ``None`` if it cannot be built there.
    """
    if teacher is None:
        return {method: on_map(method)}
    shipped = _shipped(method, student)
    lacks = _lacking(shipped, network)
    if not shipped or lacks:
        whose = f'{teacher.key} {teacher.name} has no {lacks} to compare with'
        what = whose if lacks else f'it has no options for {student.model.get("type")} ({student.name})'
        options = {name: _shipped(name, student) for name in methods()}
        fitting = [name for name, one in options.items() if one and not _lacking(one, network)]
        raise ValueError(f'--method {method}: {what}. These methods fit: {", ".join(fitting)}.')
    found = put_all(shipped, dict.fromkeys(shipped, AUTO), student.task, f'--method {method}')
    for one in found.values():
        if one['type'] == 'MasKD' and steps < _LEARNING:
            one['learn'] = {**one.get('learn', {}), 'max_iters': steps}
    return found


def _shipped(method: str, student: Side) -> dict[str, Any]:
    """Return the distillers that the package has for a method and a student; empty without any."""
    options = best(option_files(method), _pair_name(student), student.task)
    return Config.fromfile(options).to_dict()['distillers'] if options else {}


def _lacking(options: Mapping[str, Any], teacher: Any) -> str:
    """Return a module that the distillers read and the teacher does not have; empty if it has all, or is unknown."""
    for distiller in [DISTILLERS.build(one) for one in options.values()] if teacher is not None else []:
        for tap in distiller.teacher_taps:
            try:
                find_module(teacher, tap, 'teacher_tap')
            except KeyError:
                return str(tap.path)
        if missing := [part for part in distiller.teacher_parts or () if not hasattr(teacher, part)]:
            return str(missing[0])
    return ''


def _pair_name(student: Side) -> str:
    """Return the words by which options are chosen: the class of the network, and the first part of its zoo name."""
    kind = str(student.model.get('type')).rsplit('.', 1)[-1]
    words = [kind.lower(), *(word.lower() for word in _WORDS.findall(kind))]
    if '::' in student.name:
        words += Path(student.name).stem.split('_')[0].split('-')
    return '_'.join(dict.fromkeys(words))


def on_map(method: str) -> dict[str, Any]:
    """Return the options of a method that learns from the map of a foundation model."""
    by_name = {kind.lower(): cls for kind, cls in DISTILLERS.module_dict.items() if issubclass(cls, FeatureDistiller)}
    if method not in by_name:
        raise KeyError(
            f'--method {method}: it does not compare maps, and a foundation model has no other output. These do: '
            f'{", ".join(sorted(by_name))}.'
        )
    return {'type': by_name[method].__name__, 'student_tap': 'backbone[-1]', 'teacher_tap': 'map', 'settings': AUTO}


def methods_of(given: Sequence[str], task: str, foundation: bool) -> list[str]:
    """Return the names of ``--method`` without repetitions, or the default for the task or the teacher."""
    return list(dict.fromkeys(given)) or [FOUNDATION_DEFAULT if foundation else DEFAULTS[task]]


def with_enough(names: list[str], given: bool, pictures: int, steps: int) -> tuple[list[str], str]:
    """Return the methods, another default in the place of PCD where it has too little, and why."""
    if 'pcd' not in names or (pictures >= LEAST_TRAINING and steps >= _LEAST_STEPS):
        return names, ''
    why = (
        f'pcd needs {LEAST_TRAINING} training pictures and {_LEAST_STEPS} steps, and there are {pictures} pictures and '
        f'{steps} steps'
    )
    if given:
        raise ValueError(f'--method pcd: {why}. Take another method, such as {SMALL_DEFAULT}.')
    return [SMALL_DEFAULT], f'{why}: {SMALL_DEFAULT} in its place'
