"""What a config holds: flat, as plain values, from its text, behind wrapped data sets; what ``--cfg-options`` gives."""

import argparse
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config, ConfigDict

from mmdistill_dense.apps.inspect.step_cost import pipeline_size
from mmdistill_dense.apps.options import OptionsAction
from mmdistill_dense.apps.recipes.named import classes_of
from mmdistill_dense.config.resolve import written
from mmdistill_dense.config.values import chain, flat, layers, members, plain, type_name
from mmdistill_dense.guards.config import check_crop
from mmdistill_dense.unlabelled.pictures import training_steps


@pytest.mark.parametrize(('value', 'leaves'), [
    (dict(a=dict(b=1), c=[]), {'a.b': 1, 'c': []}),
    (dict(a=[dict(b=1), 2], e={}), {'a.0.b': 1, 'a.1': 2}),
    (dict(a=(1, 2)), {'a': [1, 2]}),
])  # fmt: skip
def test_flat(value, leaves):
    assert flat(value) == leaves


def test_plain_values_are_those_of_json():
    found = plain({1: (np.zeros(2), None, True), 'kind': Config, 'one': np.float64(0.5)}, str.upper)
    assert found == {'1': [[0.0, 0.0], None, True], 'kind': 'Config', 'one': 0.5}
    assert plain(dict(a=['b']), str.upper) == dict(a=['B'])


def test_a_type_is_a_text_or_a_class():
    assert [type_name(dict(type=kind)) for kind in ('Config', 'mmengine.Config', Config)] == ['Config'] * 3
    assert type_name({}) == ''


def test_the_text_of_a_config_is_read_without_running_it():
    values = dict(a=1, b=[dict(c='x', d=None), (1.5, -2)], e={'f.g': dict(h=True), 'i': 1e-05}, j='two\nlines', k={})
    assert written(Config(values).pretty_text) == plain(values)
    assert written("import os\nos.remove('x')\na = f(1)") == dict(a='f(1)')
    assert written("palette = {(0, 0, 0): 'x'}") == dict(palette={(0, 0, 0): 'x'})
    assert written(None) == written('a = (') == written('') == {}


def read(*words: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=OptionsAction)
    return parser.parse_args(['--cfg-options', *words]).cfg_options


@pytest.mark.parametrize(('text', 'value'), [
    ('extra pics (no labels)/a b', 'extra pics (no labels)/a b'),
    ('"my data"', 'my data'),
    ('3', 3),
    (' 1e-3', 1e-3),
    ('true', True),
    ('None', None),
    ('', ''),
    ('1,2', [1, 2]),
    ('[a, b]', ['a', 'b']),
    ('(1, 2)', (1, 2)),
    ('[(1,2),[x, y]]', [(1, 2), ['x', 'y']]),
    ('a=b', 'a=b'),
])  # fmt: skip
def test_values_are_as_written(text: str, value: Any) -> None:
    assert read(f'model.x={text}', 'y=1') == {'model.x': value, 'y': 1}


def test_a_word_without_a_value_is_named(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        read('data_root=my', 'data')
    assert '--cfg-options data: give KEY=VALUE; put quotes' in capsys.readouterr().err


# Wrapped data sets, through which all that read their configs look

PIPELINE = [dict(type='LoadImageFromFile'), dict(type='RandomCrop', crop_size=(32, 48))]
PLAIN = dict(type='mmdet.CocoDataset', metainfo=dict(classes=('sky', 'car')), pipeline=PIPELINE)
OTHER = dict(type='mmdet.CocoDataset', metainfo=dict(classes=('sky', 'car')), pipeline=PIPELINE[:1])


def repeated(inside: dict) -> dict:
    return dict(type='RepeatDataset', times=2, dataset=inside)


def joined(*inside: dict) -> dict:
    return dict(type='ConcatDataset', datasets=list(inside))


WRAPPED = {
    'plain': PLAIN,
    'repeated': repeated(PLAIN),
    'joined': joined(PLAIN, OTHER),
    'repeated and joined': repeated(joined(PLAIN, OTHER)),
    'joined and repeated': joined(repeated(repeated(PLAIN)), OTHER),
    'mixed': dict(type='mmdet.MultiImageMixDataset', dataset=joined(PLAIN, OTHER), pipeline=[]),
    'read twice': joined(PLAIN),
}


@pytest.mark.parametrize('option', WRAPPED.values(), ids=WRAPPED)
def test_a_wrapper_hides_nothing(option: dict) -> None:
    dataset = ConfigDict(option)
    assert classes_of(dataset) == classes_of(PLAIN) == ('sky', 'car')
    assert pipeline_size(dataset) == (48, 32)  # width and height, as mmdet has them
    assert [step['type'] for step in training_steps(dataset)] == ['LoadImageFromFile', 'RandomCrop']
    with pytest.raises(ValueError, match='crop'):
        check_crop(dataset, ConfigDict(data_preprocessor=dict(size=(64, 64))))


def test_each_data_set_is_told_with_its_key_before_what_wraps_it() -> None:
    option = repeated(joined(PLAIN, repeated(OTHER)))
    inside = ['d.dataset.datasets.0', 'd.dataset.datasets.1.dataset', 'd.dataset.datasets.1']
    assert [key for key, _ in layers(option, 'd')] == [*inside, 'd.dataset', 'd']
    assert list(members(option, 'd')) == [('d.dataset.datasets.0', PLAIN), ('d.dataset.datasets.1.dataset', OTHER)]
    assert chain(option) == [PLAIN, option['dataset'], option]
    assert chain(None) == list(layers(None)) == []
