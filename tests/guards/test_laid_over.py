"""A distiller that is written over one of another method."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config

from mmdistill_dense.guards.config import check_laid_over

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
        ValueError, match=r'mine.py: model.distillers.cwd=.* options would stay: loss_weight=3.0.*_delete_'
    ):
        check_laid_over(config)


@pytest.mark.parametrize(
    'text',
    [
        "model = dict(distillers=dict(_delete_=True, cwd=dict(type='LogitKD')))",
        "model = dict(distillers=dict(cwd=dict(type='LogitKD', _delete_=True)))",
        "model = dict(distillers=dict(cwd=dict(type='CWD', loss_weight=1.0)))",
        'model = dict(distillers=dict(cwd=dict(loss_weight=1.0)))',
        "model = dict(distillers=dict(mine=dict(type='LogitKD')))",
        'x = 1',
    ],
)
def test_what_changes_options_alone_is_not(text: str, tmp_path: Path) -> None:
    check_laid_over(written(tmp_path, text))


def test_a_config_without_a_file_is_not_looked_at() -> None:
    check_laid_over(Config(dict(model=dict(distillers=dict(cwd=dict(type='CWD'))))))
