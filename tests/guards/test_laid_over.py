"""Distillers that are written over those of a base."""

from pathlib import Path

import pytest
from mmengine.config import Config

from mmdistill_dense.guards.config import check_laid_over, check_retyped, check_top_level_distillers

BASE = "model = dict(distillers=dict(cwd=dict(type='CWD', loss_weight=3.0), kd=dict(type='LogitKD')))\n"


def written(folder: Path, text: str, base: str = BASE) -> Config:
    (folder / 'base.py').write_text(base)
    (folder / 'mine.py').write_text(f"_base_ = './base.py'\n{text}\n")
    return Config.fromfile(folder / 'mine.py')


@pytest.mark.parametrize(
    'text',
    ["model = dict(distillers=dict(cwd=dict(type='LogitKD')))", "model = {'distillers': {'cwd': {'type': 'LogitKD'}}}"],
)
def test_another_method_under_the_same_name_is_refused(text: str, tmp_path: Path) -> None:
    config = written(tmp_path, text)
    assert config.model.distillers.cwd == {'type': 'LogitKD', 'loss_weight': 3.0}  # what mmengine makes of it
    with pytest.raises(
        ValueError, match=r'mine.py: model.distillers.cwd=.* would keep options .*: loss_weight=3.0.*_delete_'
    ):
        check_laid_over(config)


@pytest.mark.parametrize('text', [
    "model = dict(distillers=dict(_delete_=True, cwd=dict(type='LogitKD')))",
    "model = dict(distillers=dict(cwd=dict(type='LogitKD', _delete_=True)))",
    "model = dict(distillers=dict(cwd=dict(type='CWD', loss_weight=1.0)))",
    'model = dict(distillers=dict(cwd=dict(loss_weight=1.0)))',
    "model = dict(distillers=dict(mine=dict(type='LogitKD')))",
    'x = 1',
])  # fmt: skip
def test_what_changes_options_alone_is_not(text: str, tmp_path: Path) -> None:
    check_laid_over(written(tmp_path, text))


def test_a_config_without_a_file_is_not_looked_at() -> None:
    check_laid_over(Config(dict(model=dict(distillers=dict(cwd=dict(type='CWD'))))))


@pytest.mark.parametrize(('change', 'refused'), [
    ({'type': 'DIST'}, True), ({'type': 'DIST', 'loss_weight': 1.0}, False), ({'loss_weight': 1.0}, False),
    ({'type': 'CWD'}, False), ({'type': 'mmdistill_dense.CWD'}, False),
])  # fmt: skip
def test_another_method_on_the_command_line_keeps_no_options(change: dict, refused: bool, tmp_path: Path) -> None:
    config = written(tmp_path, 'x = 1')
    config.merge_from_dict({f'model.distillers.cwd.{key}': value for key, value in change.items()})
    if not refused:
        check_retyped(config)
        return
    with pytest.raises(
        ValueError,
        match=r"cwd\.type='DIST' would keep options of CWD: .*Name a config of DIST, or add .*cwd._delete_=True",
    ):
        check_retyped(config)


def test_one_option_that_is_kept_is_enough(tmp_path: Path) -> None:
    config = written(tmp_path, "model = dict(distillers=dict(cwd=dict(student_tap='x')))")
    config.merge_from_dict({'model.distillers.cwd': {'type': 'DIST', 'loss_weight': 1.0}})
    with pytest.raises(ValueError, match='would keep options of CWD: student_tap'):
        check_retyped(config)
    config.merge_from_dict({'model.distillers.cwd': {'type': 'DIST', 'student_tap': 'x', '_delete_': True}})
    check_retyped(config)


def test_what_holds_no_distillers_by_name_is_left_to_the_model(tmp_path: Path) -> None:
    for value in ("dict(_delete_=True, kd=dict(type='LogitKD'))", '[1]', 'None'):
        check_retyped(written(tmp_path, f'model = dict(distillers={value})', 'x = 1'))


OPTIONS = "distillers = dict(cwd=dict(type='CWD', loss_weight=3.0))\n"
CHANGE = 'distillers = dict(cwd=dict(loss_weight=50.0))\n'


@pytest.mark.parametrize(('base', 'text', 'said'), [
    (BASE + OPTIONS, CHANGE, r'model = dict\(distillers=dict\(cwd=dict\(loss_weight=50.0\)\)\)'),
    (BASE + OPTIONS, "distillers = dict(_delete_=True, kd=dict(type='LogitKD'))", r'kd=dict\(type='),
    (
        OPTIONS,
        f'{CHANGE}model = dict(distillers=_base_.distillers)',
        r'_base_\.distillers\.cwd\.loss_weight = 50.0 above',
    ),
])  # fmt: skip
def test_distillers_beside_a_model_with_those_of_the_base_are_refused(
    base: str, text: str, said: str, tmp_path: Path
) -> None:
    config = written(tmp_path, text, base)
    assert config.model.distillers.cwd.loss_weight == 3.0
    with pytest.raises(ValueError, match=rf'mine.py: distillers\..* has no effect.*{said}'):
        check_top_level_distillers(config)


@pytest.mark.parametrize(('base', 'text'), [
    (BASE + OPTIONS, 'model = dict(distillers=dict(cwd=dict(loss_weight=50.0)))'),
    (BASE, 'distillers = dict(cwd=dict(loss_weight=50.0))\nmodel = dict(distillers=distillers)'),
    (OPTIONS, '_base_.distillers.cwd.loss_weight = 50.0\nmodel = dict(distillers=_base_.distillers)'),
    ('x = 1\n', "distillers = dict(cwd=dict(type='CWD'))\nmodel = dict(distillers=distillers)"),
    (OPTIONS, CHANGE),
])  # fmt: skip
def test_distillers_that_the_model_takes_are_not(base: str, text: str, tmp_path: Path) -> None:
    check_top_level_distillers(written(tmp_path, text, base))
