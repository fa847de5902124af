"""The teachers and distillers of a run, which must be the same when it is resumed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mmdistill_dense.model.balanced_step import balanced_of
from mmdistill_dense.model.distill_model import Distilled
from mmdistill_dense.model.distillation import distillers_of


def identity(model: Distilled) -> dict[str, Any]:
    """Return the receipts of the teachers, the taps and shapes of the distillers, and what is balanced, as values."""
    teachers = {
        str(name): teacher.receipt.as_dict() for name, teacher in model.distillation.teachers.items() if teacher.receipt
    }
    distillers = {
        name: {
            'type': type(d).__name__,
            'tensors': {key: list(value.shape) for key, value in d.state_dict().items()},
            'taps': [[str(s), str(t)] for s, t in zip(d.student_taps, d.teacher_taps, strict=True)],
        }
        for name, d in model.distillers.items()
    }
    told = {'teachers': teachers, 'distillers': distillers}
    balanced = {name: asdict(balancer.option) for name, (_, balancer) in balanced_of(distillers_of(model)).items()}
    for name, one in model.distillers.items():
        if one.settings is not None:
            distillers[name]['settings'] = str(one.settings)
    second = model.distillation.unlabelled
    told = {**told, 'balance': balanced} if balanced else told
    return {**told, 'unlabelled': second.files} if second is not None else told


def differ(then: dict[str, Any], now: dict[str, Any]) -> bool:
    """Tell whether a checkpoint's identity is another than this run's; files of older versions hold no taps."""
    if any('taps' not in distiller for distiller in then.get('distillers', {}).values()):
        then, now = _without(then, 'taps'), _without(now, 'taps')
    return comparable(then) != comparable(now)


def _without(told: dict[str, Any], fact: str) -> dict[str, Any]:
    found = {
        name: {key: value for key, value in distiller.items() if key != fact}
        for name, distiller in told.get('distillers', {}).items()
    }
    return {**told, 'distillers': found} if told else {}


def comparable(told: dict[str, Any]) -> dict[str, Any]:
    """Return the identity without file names, and without configs where a hash is known: a moved file is the same.

    The names of settings do not count: the options that they stand for may be written out.
    """
    teachers = {
        name: {**teacher, 'file': None, 'config': None if teacher['sha256'] else teacher['config']}
        for name, teacher in told.get('teachers', {}).items()
    }
    return {**_without(told, 'settings'), 'teachers': teachers} if told else {}


def describe(told: dict[str, Any]) -> str:
    """Return the identity in words."""
    if not told:
        return 'no distillation'
    teachers = ', '.join(
        f'{t["config"]} with {t["file"]} (SHA-256 {str(t["sha256"])[:8]})' for t in told['teachers'].values()
    )
    distillers = ', '.join(f'{n}: {d["type"]} ({_parts(d)})' for n, d in told['distillers'].items())
    balanced = ', '.join(
        f'{name}: ratio {one["ratio"]:g} until {one["until"]}' for name, one in told.get('balance', {}).items()
    )
    parts = [f'teacher {teachers}; distillers {distillers}', *([f'balance {balanced}'] if balanced else [])]
    if second := told.get('unlabelled'):
        listed = f'list {second["names"][:8]}, ratio {second["ratio"]:g}'
        parts.append(f'{second["pictures"]} pictures without labels ({listed})')
    return '; '.join(parts)


def _parts(distiller: dict[str, Any]) -> str:
    taps = [
        student if student == teacher else f'{student} -> {teacher}' for student, teacher in distiller.get('taps', ())
    ]
    parts = [f'{len(distiller["tensors"])} tensors', *([f'taps {", ".join(taps)}'] if taps else [])]
    return '; '.join([*parts, *([f'settings {distiller["settings"]}'] if 'settings' in distiller else [])])
