"""Which methods teach a student, and the distillers of each: those that the package has for such a pair."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdistill_dense.apps.project import DEFAULTS, FOUNDATION_DEFAULT, MASKS_DEFAULT, UNLABELLED_DETECTOR
from mmdistill_dense.apps.project.network_options import UserNetwork
from mmdistill_dense.apps.recipes.compose import best, methods, option_files
from mmdistill_dense.config.values import type_name
from mmdistill_dense.distillers.feature import FeatureDistiller
from mmdistill_dense.distillers.fragments import AUTO, replace_settings, resolve_settings
from mmdistill_dense.networks.taps import resolve_tap
from mmdistill_dense.registry import DISTILLERS

SUBSTITUTES = {'seg': 'pcd', 'det': 'kd'}  # where a network has not what the default compares
_WORDS = re.compile(r'[A-Z]+(?=[A-Z][a-z])|[A-Z][a-z0-9]+|[A-Z]+|[a-z0-9]+')
_TOKEN_STEPS = 2000  # steps in which tokens are learned


def methods_of(
    names: Sequence[str], task: str, foundation: bool, unlabelled: bool = False, masks: bool = False
) -> list[str]:
    """Return the names of ``--method`` without repetitions, or the default for the task, the teacher and the data.

    ``masks``: both networks have mask heads that can be compared.
    """
    detector = UNLABELLED_DETECTOR if unlabelled else MASKS_DEFAULT if masks else DEFAULTS['det']
    default = detector if task == 'det' else DEFAULTS[task]
    return list(dict.fromkeys(names)) or [FOUNDATION_DEFAULT if foundation else default]


def fitting_default(default: str, student: UserNetwork, teacher: UserNetwork) -> tuple[str, str]:
    """Return the default method, or its substitute where that alone fits the pair, and why."""
    lacks, substitute = shipped(default, student, teacher)[1], SUBSTITUTES[student.task]
    if lacks and not shipped(substitute, student, teacher)[1]:
        return substitute, f'{default} does not fit ({lacks}): {substitute} in its place'
    return default, ''


def check_queue(names: Sequence[str], pictures: int) -> None:
    """Refuse PCD for fewer training pictures than its queue needs."""
    from mmdistill_dense.distillers.pcd.modules import LEAST_TRAINING  # other commands need nothing of that file

    if 'pcd' in names and pictures < LEAST_TRAINING:
        problem = f'it needs {LEAST_TRAINING} training pictures, and there are {pictures}'
        raise ValueError(f'--method pcd: {problem}. Take another method, such as {DEFAULTS["seg"]}.')


def distillers_for(method: str, student: UserNetwork, teacher: UserNetwork | None, steps: int) -> dict[str, Any]:
    """Return a method's distillers for a student and its teacher, or (``None``) for a map."""
    if teacher is None:
        return {method: map_options(method, student.task)}
    distillers, lacks = shipped(method, student, teacher)
    if lacks:
        fitting = [name for name in methods() if not shipped(name, student, teacher)[1]]
        raise ValueError(f'--method {method}: {lacks}. These methods fit: {", ".join(fitting) or "none"}.')
    from mmdistill_dense.distillers.maskd.token_distiller import TokenDistiller  # loaded only where it is used

    distillers = replace_settings(distillers, dict.fromkeys(distillers, AUTO), student.task, f'--method {method}')
    for option in distillers.values():
        if issubclass(DISTILLERS.get(option['type']), TokenDistiller) and steps < _TOKEN_STEPS:
            option['learn'] = {**option.get('learn', {}), 'max_iters': steps}
    return {name: resolve_settings(option, student.task, name) for name, option in distillers.items()}


def shipped(method: str, student: UserNetwork, teacher: UserNetwork) -> tuple[dict[str, Any], str]:
    """Return the distillers that the package has for a method and a pair, with those of masks, and what these lack."""
    masks = 'masks' if same_masks(student, teacher) else None  # other heads give masks of another size
    candidates = (best(option_files(method), pair_name(student), student.task, variant) for variant in (masks, None))
    if (options := next(filter(None, candidates), None)) is None:
        return {}, f'it has no options for {student.model.get("type")} ({student.name})'
    distillers = Config.fromfile(options).to_dict()['distillers']
    for distiller in map(DISTILLERS.build, distillers.values()):
        read = (distiller.student_taps, ()), (distiller.teacher_taps, distiller.teacher_parts or ())
        for side, (taps, parts) in zip((student, teacher), read, strict=True):
            if side.network is None:
                continue
            missing = [part for part in parts if not hasattr(side.network, part)]
            for tap in taps:
                try:
                    resolve_tap(side.network, tap, 'tap')
                except KeyError:
                    missing.insert(0, str(tap.path))
            if missing:
                return distillers, f'{side.key} {side.name} has no {missing[0]} to compare with'
    return distillers, ''


def same_masks(student: UserNetwork, teacher: UserNetwork) -> bool:
    """Tell whether both have one kind of mask head on RoIs."""
    heads = [(side.model.get('roi_head') or {}).get('mask_head') for side in (student, teacher)]
    kinds = [head.get('type') if isinstance(head, Mapping) else None for head in heads]
    return bool(kinds[0]) and kinds[0] == kinds[1]


def pair_name(student: UserNetwork) -> str:
    """Return the words by which options are chosen: the class of the network, and the first part of its zoo name."""
    kind = type_name(student.model)
    words = [kind.lower(), *(word.lower() for word in _WORDS.findall(kind))]
    if '::' in student.name:
        words += Path(student.name).stem.split('_')[0].split('-')
    return '_'.join(dict.fromkeys(words))


def map_options(method: str, task: str) -> dict[str, Any]:
    """Return the options of a method that learns from the map of a foundation model."""
    by_name = {kind.lower(): cls for kind, cls in DISTILLERS.module_dict.items() if issubclass(cls, FeatureDistiller)}
    if method not in by_name:
        raise KeyError(f'--method {method}: it does not compare maps alone. These do: {", ".join(sorted(by_name))}.')
    option = {'type': by_name[method].__name__, 'student_tap': 'backbone[-1]', 'teacher_tap': 'map', 'settings': AUTO}
    return resolve_settings(option, task, method)
