"""Set the first weights of a student's backbone in its config, and check that a file fits the backbone."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from mmdistill_dense.apps.suite.definition import BACKBONE, RANDOM, Start
from mmdistill_dense.apps.suite.reader import naming
from mmdistill_dense.config.resolve import ModelConfig, load_model, student_option
from mmdistill_dense.guards.config import below, initial_state
from mmdistill_dense.utils.reproducible import fork_rng
from mmdistill_dense.weights.strict_load import load_strictly, sha256


def start_from(config: Config, start: Start, file: Path | None) -> None:
    """Set the first weights of a student's backbone to a file, or random ones for ``None``; the rest of it stays."""
    # loaded after the control's initialisation, so that the heads get the same random numbers as those of the control
    student = _student(config, start)
    if start.name == RANDOM:
        _place(config, student, None)
        return
    loaded = dict(type='Pretrained', checkpoint=str(file), prefix=start.prefix)
    _place(config, student, _beside(student, loaded))


def mark(config: Config, start: Start, made: str) -> None:
    """Set the origin of a start in place of its file, for the config hash."""
    _place(config, _student(config, start), {'type': 'Pretrained', 'made': made})


def check_file(config: Config, start: Start, file: Path) -> dict[str, Any]:
    """Compare a start's file with a student's backbone, tensor by tensor."""
    with naming(start.key):
        state = initial_state(_built(_student(config, start)), file)
    matched, total = check_state(config, start, state, repr(str(file)))
    return {'name': start.name, 'file': file.name, 'sha256': sha256(file), 'matched': matched, 'total': total}


def check_state(config: Config, start: Start, state: Mapping[str, Tensor], origin: str) -> tuple[int, int]:
    """Compare tensors with a student's backbone as :func:`check_file` does. ``origin`` names them in errors."""
    backbone = _built(_student(config, start))
    prefix = (start.prefix or '').rstrip('.')
    own = {name.split('.')[0] for name in backbone.state_dict()}
    given = below(state, prefix)
    if not prefix:  # leaves out e.g. the head of a classifier
        given = {key: value for key, value in given.items() if key.split('.')[0] in own}
    within = not prefix and any(key.startswith(BACKBONE) for key in state)
    hint = f' (it holds {BACKBONE}*: set prefix: {BACKBONE})' if within else ''
    key = f'{start.key}: {origin}{f" below {start.prefix!r}" if prefix else ""}{hint}'
    matched, _ = load_strictly(backbone, given, None, key)
    return matched, len(backbone.state_dict())


def _student(config: Config, start: Start) -> ModelConfig:
    student = load_model(student_option(config.model), 'model.student')
    if not isinstance(student.model.get('backbone'), Mapping):
        raise ValueError(f'start {start.name!r}: {student.model.get("type")} has no backbone to start from.')
    student.scope = student.scope or config.get('default_scope')
    problem = conflict(config, start)
    if problem:
        raise ValueError(problem)
    if start.name == RANDOM:
        _check_random(student)
    return student


def _place(config: Config, student: ModelConfig, init_cfg: Any) -> None:
    """Set the backbone's ``init_cfg`` where no other key overrides it."""
    place = config.model if 'backbone' in config.model else config.model.student
    if 'backbone' not in place:
        place.backbone = {}
    place.backbone.init_cfg = init_cfg
    if student.model.get('pretrained') is not None:
        (config.model if 'pretrained' in config.model else config.model.student).pretrained = None
    if student.model.backbone.get('pretrained') is not None:
        place.backbone.pretrained = None


def _beside(student: ModelConfig, loaded: dict[str, Any]) -> Any:
    """The control's initialisation, or that of its class, followed by the loaded weights."""
    from mmengine.model import BaseModule  # the list of a suite needs none

    # a list with one member differs from the member alone, with which mmengine does not initialise the layers
    backbone = _built(student)
    own = getattr(backbone, 'init_cfg', None)
    foreign = not own and getattr(type(backbone), 'init_weights', None) is not BaseModule.init_weights
    alone = isinstance(own, Mapping) and _loads(own)
    if foreign or alone or any(_old_keys(student.model)):
        return loaded
    return [*(copy.deepcopy(dict(one)) for one in _members(own or []) if not _loads(one)), loaded]


def _old_keys(model: Mapping[str, Any]) -> tuple[Any, Any]:
    return model.get('pretrained'), model['backbone'].get('pretrained')


def _loads(one: Mapping[str, Any]) -> bool:
    return 'Pretrained' in str(one.get('type'))


def _members(init_cfg: Any) -> list[Mapping[str, Any]]:
    return [init_cfg] if isinstance(init_cfg, Mapping) else list(init_cfg)


def _built(student: ModelConfig) -> nn.Module:
    if student.scope is not None:
        init_default_scope(student.scope)
    option = {'_scope_': student.scope, **student.model.backbone} if student.scope else dict(student.model.backbone)
    with fork_rng():
        return MODELS.build(option)


def conflict(config: Config, start: Start) -> str | None:
    """Return why a control's config excludes a start, or ``None``."""
    inherited = [entry[0] for entry in config.model.get('inherit') or []]
    if not start.inherit:
        inherited = [name for name in inherited if name.split('.')[0] == 'backbone']
    for key, value in (('load_from', config.get('load_from')), ('model.inherit', inherited)):
        if value:
            replaced = start.inherit and value is inherited
            both = 'and the start would replace each other' if replaced else 'would replace it'
            return f'start {start.name!r}: {key}={value!r} of the control {both}; remove the row from the suite.'
    return None


def _check_random(student: ModelConfig) -> None:
    loading = map(_loads, _members(student.model['backbone'].get('init_cfg') or []))
    if not any((*_old_keys(student.model), *loading)):
        raise ValueError(f'start {RANDOM!r}: the backbone of the control is random already; leave this row out.')
    backbone = _built(student)  # norm_eval is on by default in mmdet's ResNet
    frozen, evaluated = getattr(backbone, 'frozen_stages', -1), getattr(backbone, 'norm_eval', False)
    for name, value, fixed in (('frozen_stages', frozen, frozen >= 0), ('norm_eval', evaluated, evaluated)):
        if fixed:
            raise ValueError(
                f'start {RANDOM!r}: the student has backbone.{name}={value}, which keeps random weights or '
                'statistics as they are. Give all students model.student.backbone.frozen_stages: -1 and norm_eval: '
                'false in the options of the suite, or leave this row out.'
            )
