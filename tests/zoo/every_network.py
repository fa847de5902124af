"""Walk all distinct networks of the mmseg and mmdet zoos: each is built as a student with its own copy as teacher.

The outcome is ``ok``, ``refused`` (with the reason), ``failed``, or ``no network`` where it cannot be built without us
either. Networks are the same that differ in weights, classes, preprocessor, losses or configs of training alone.
"""

import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import mmdet.datasets.transforms  # noqa: F401  (registers the preprocessor of CLRNet)
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope

from mmdistill_dense.config.resolve import load_model, package_root
from mmdistill_dense.utils.process import quiet
from mmdistill_dense.utils.validate import text_of
from tests.zoo.networks import build, key_of, without_values

_ASIDE = ('pretrained', 'init_cfg', 'num_classes', 'data_preprocessor', 'train_cfg', 'test_cfg', 'class_weight')


def names() -> Iterator[str]:
    """The names of all configs of both packages."""
    for package in ('mmseg', 'mmdet'):
        root = package_root(package) / 'configs'
        for path in sorted(root.rglob('*.py')):
            if '_base_' not in path.parts and 'common' not in path.parts:
                yield f'{package}::{path.relative_to(root)}'


def _structure(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _structure(v) for k, v in value.items() if k not in _ASIDE and not str(k).startswith('loss')}
    return [_structure(child) for child in value] if isinstance(value, (list, tuple)) else value


def _types(value: Any) -> Any:
    """The classes that a network consists of."""
    if isinstance(value, Mapping):
        inner = [_types(v) for k, v in value.items() if isinstance(v, (dict, list, tuple)) and not k.endswith('_cfg')]
        return [str(value.get('type'))] + [child for child in inner if child]
    if isinstance(value, (list, tuple)):
        return [actual for child in value if (actual := _types(child))]
    return None


def distinct(architectures: bool = False) -> dict[str, str]:
    """The name of a config for each network; names that stand for no network are left out."""
    actual: dict[str, str] = {}
    for name in names():
        try:
            with quiet():
                model = load_model(dict(cfg=name), 'model').model
        except Exception:  # the configs that hold no model, or that mmengine cannot read
            continue
        structure = _structure(model)
        actual.setdefault(name.partition('::')[0] + key_of(_types(structure) if architectures else structure), name)
    return {name: name for name in actual.values()}


def distillers(name: str) -> dict[str, Any]:
    """What is walked with."""
    scores = dict(scores=dict(type='LogitKD')) if name.startswith('mmseg') else {}
    has_backbone = 'backbone' in load_model(dict(cfg=name), 'model').model
    return {**scores, **(dict(feature=dict(type='FitNet')) if has_backbone or not scores else {})}


def _option(name: str) -> ConfigDict:
    option = dict(cfg=name)
    return ConfigDict(
        type='mmdistill_dense.DistillModel',
        student=option,
        teacher=dict(option, allow_random=True),
        distillers=distillers(name),
    )


def _plain(option: ConfigDict) -> Any:
    """Build the network without us."""
    config = load_model(option, 'model')
    return MODELS.build(ConfigDict(config.model, _scope_=config.scope))


def walk(name: str) -> dict[str, Any]:
    """The outcome of one network."""
    init_default_scope(name.partition('::')[0])
    try:
        with quiet():
            model = build(Config(dict(default_scope=name.partition('::')[0], model=_option(name))))
        return dict(outcome='ok', levels={key: len(method.levels) for key, method in model.distillers.items()})
    except Exception as error:
        try:
            with quiet(), without_values():
                _plain(ConfigDict(cfg=name, pretrained=False))
        except Exception as own:
            return dict(outcome='no network', name=name, error=f'{type(own).__name__}: {own}'[:400])
        output = text_of(error)
        refused = output.startswith('model.') or 'there is no GPU here' in output
        where = traceback.format_tb(error.__traceback__)[-3:]
        return dict(outcome='refused' if refused else 'failed', name=name, error=output[:900], where=where)
