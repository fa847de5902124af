"""Every architecture of the mmseg and mmdet zoos is built as its own teacher's student, or refused with a reason."""

from collections.abc import Mapping
from typing import Any

import mmdet.datasets.transforms  # noqa: F401  (registers the preprocessor of CLRNet)
import pytest
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope

from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.utils.process import quiet
from mmdistill_dense.utils.validate import text_of
from tests.zoo.networks import build, config_names, key_of, without_values


def types(value: Any, key: str = '') -> Any:
    """The classes that a network consists of."""
    if isinstance(value, Mapping) and not key.startswith(('loss', 'data_preprocessor')) and not key.endswith('_cfg'):
        return [str(value.get('type')), *filter(None, (types(child, name) for name, child in value.items()))]
    return [*filter(None, map(types, value))] if isinstance(value, (list, tuple)) else []


def distinct() -> list[str]:
    """The name of a config for each architecture; names that stand for no network are left out."""
    actual: dict[str, str] = {}
    for name in config_names():
        try:
            with quiet():
                model = load_model(dict(cfg=name), 'model').model
        except Exception:  # the configs that hold no model, or that mmengine cannot read
            continue
        actual.setdefault(name.partition('::')[0] + key_of(types(model)), name)
    return [*actual.values()]


def walk(name: str) -> tuple[str, str]:
    """``ok``, ``refused``, ``failed``, or ``no network`` where it cannot be built without us either; and the error."""
    scope, option = name.partition('::')[0], dict(cfg=name)
    init_default_scope(scope)
    distillers = dict(scores=dict(type='LogitKD')) if scope == 'mmseg' else {}
    try:
        with quiet():
            if 'backbone' in load_model(option, 'model').model or not distillers:
                distillers['feature'] = dict(type='FitNet')
            model = dict(student=option, teacher=dict(option, allow_random=True), distillers=distillers)
            build(Config(dict(default_scope=scope, model=dict(model, type='mmdistill_dense.DistillModel'))))
        return 'ok', ''
    except Exception as error:
        try:
            with quiet(), without_values():
                config = load_model(dict(option, pretrained=False), 'model')
                MODELS.build(ConfigDict(config.model, _scope_=config.scope))
        except Exception as own:
            return 'no network', repr(own)
        refused = text_of(error).startswith('model.') or 'there is no GPU here' in text_of(error)
        return 'refused' if refused else 'failed', f'{name}: {text_of(error)}'


@pytest.mark.soak
@pytest.mark.parametrize(('name', 'outcome'), [
    ('mmseg::san/san-vit-b16_coco-stuff164k-640x640.py', 'ok'),
    ('mmdet::qdtrack/qdtrack_faster-rcnn_r50_fpn_4e_base.py', 'refused'),
    ('mmdet::clrnet/clrnet.py', 'ok'),
])  # fmt: skip
def test_networks_of_special_kinds(name: str, outcome: str) -> None:
    actual = walk(name)
    assert actual[0] == outcome, actual


@pytest.mark.zoo
def test_no_architecture_fails() -> None:
    actual = [walk(name) for name in distinct()]
    assert len(actual) > 250
    assert not [row for row in actual if row[0] == 'failed']
    built = [outcome for outcome, _ in actual if outcome != 'no network']
    assert built.count('ok') > 0.95 * len(built)
