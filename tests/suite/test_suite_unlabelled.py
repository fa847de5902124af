"""Rows of a suite with pictures without labels: their config, hash, checks, cost and note."""

from pathlib import Path
from typing import Any

import pytest

from mmdistill_dense.apps.inspect.step_cost import peak_extra_memory
from mmdistill_dense.apps.suite import configs, plan, preflight
from mmdistill_dense.apps.suite.definition import Definition, load
from mmdistill_dense.apps.suite.job import perform
from mmdistill_dense.apps.suite.rows import own_data
from mmdistill_dense.apps.suite.table import unlabelled
from tests import toys
from tests.suite import tiny
from tests.suite.tiny import run_of
from tools.benchmark.step import prepare_steps


def defined(row: dict[str, Any] | None = None, **changes: Any) -> Definition:
    more = {'method': 'kd', 'unlabelled': {'data_root': toys.picture_folder(6), **(row or {})}}
    return load(tiny.write(Path(), **{'methods': {'kd': {}, 'more': more}, **changes}))


def hash_of(name: str, row: dict[str, Any] | None = None) -> str:
    definition = defined(row)
    return plan.hash_of(definition, run_of(definition, name))


def test_a_row_differs_in_its_pictures_alone() -> None:
    definition = defined()
    kd, more = (configs.method_config(definition, definition.methods[name]).to_dict() for name in ('kd', 'more'))
    assert list(configs.differences(kd, more)) == ['model.unlabelled']
    assert more['model']['unlabelled'] == {'data_root': toys.picture_folder(6)}


def test_the_hash_changes_with_ratio_and_list_and_not_with_the_workers() -> None:
    first = hash_of('more')
    assert hash_of('kd') == hash_of('kd', {'ratio': 3}) != first
    assert hash_of('more', {'workers': 2}) == first
    assert len({first, hash_of('more', {'ratio': 3}), hash_of('more', {'ann_file': 'list.txt'})}) == 3


def test_a_config_of_ones_own_may_have_pictures() -> None:
    name = "__import__('mmdistill_dense').base('mmdistill_dense::_base_/recipes/toy_seg.py')"
    option = "dict(distillers=dict(kd=dict(type='LogitKD')), unlabelled=dict(data_root='more'))"
    Path('mine.py').write_text(f'_base_ = {name}\nmodel = {option}\n')
    definition = defined(methods={'mine': {'config': 'mine.py'}})
    assert configs.method_config(definition, definition.methods['mine']).model.unlabelled == {'data_root': 'more'}


@pytest.mark.parametrize(
    ('row', 'said'),
    [({'data_root': 'none'}, "more: UnlabeledImages: data_root = 'none' does not exist"), ({'ratoi': 2}, "'ratoi'")],
)
def test_mistakes_come_up_before_anything_starts(row: dict[str, Any], said: str) -> None:
    definition = defined(row)
    with pytest.raises((FileNotFoundError, TypeError, ValueError), match=said):
        preflight.check(definition, plan.resolved(definition, [run_of(definition, 'more')]))


@pytest.mark.soak
def test_the_cost_is_that_of_both_parts() -> None:
    """Twice the pictures in the student's graph; times are not compared here."""
    definition = defined({'ratio': 1})
    found = {}
    for name in ('kd', 'more'):
        config = configs.method_config(definition, definition.methods[name])
        config.model.teacher.checkpoint = None
        distilled = prepare_steps(config).distilled
        distilled()
        found[name] = peak_extra_memory(distilled, 'cpu')
    more = found['more'] / found['kd']
    assert 1.5 < more < 2.2, found


@pytest.mark.soak
@pytest.mark.parametrize(
    ('options', 'passes'), [({}, 2), ({'schedule.stop_at': 3}, 1), ({'schedule.ramp_down': [0, 0.5]}, 1)]
)
def test_a_run_tells_the_number_and_the_passes(options: dict[str, Any], passes: int) -> None:
    """Of 6 pictures, 2 a step in 6 steps. A distiller of weight 0 reads none."""
    pictures = {'data_root': toys.picture_folder(6), 'ratio': 1}
    definition = defined(methods={'more': {'method': 'kd', 'unlabelled': pictures, 'options': options}})
    for name in ('teacher', 'more'):
        result = perform(definition, run_of(definition, name))
    assert result['unlabelled']['pictures'] == 6 and result['unlabelled']['passes'] == pytest.approx(passes)
    times = f'each seen {passes} times (hash of the names '
    assert unlabelled(result).startswith(f'6, 1 for each labelled one of a step, {times}')
    assert unlabelled({}) == ''


def test_rows_may_have_a_length_and_training_sets_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of their config is the control's, also of a second row that replaces nested options."""
    monkeypatch.setenv('SHAPES', '5')
    rows = {
        'alone_2x': {'length': 2},
        'joined': {'method': 'kd', 'data': [{}, {'num_images': 3, 'palette': '{{$SHAPES:1}}'}]},
        'other': {'data': [{'painting.objects': [1, 2]}]},
    }
    loop = {'_delete_': True, 'type': 'IterBasedTrainLoop', 'max_iters': 8, 'val_interval': 4}
    definition = defined(methods=rows, options={'train_cfg': loop})
    found = {name: plan.config_of(definition, run_of(definition, name)) for name in ('control', *rows)}
    assert [one.train_cfg.max_iters for one in found.values()] == [8, 16, 8, 8]
    assert {len(one.train_cfg) for one in found.values()} == {3}
    first, second = found['joined'].train_dataloader.dataset.datasets
    control = found['control'].train_dataloader.dataset
    assert first == control and second == {**control, 'num_images': 3, 'palette': '5'}
    assert found['other'].train_dataloader.dataset.painting.objects == [1, 2]
    assert len({plan.hash_of(definition, run_of(definition, name)) for name in found}) == 4
    assert own_data(definition.methods['alone_2x']) == ', 2 times as long'
    assert own_data(definition.methods['joined']).startswith(" on the control's training set and the control's")
