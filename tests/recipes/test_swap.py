"""One line swaps the method of a ready config, for every method: README's ``_delete_``."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdistill_dense.apps.recipes.compose import methods
from mmdistill_dense.apps.recipes.named import combinations, read_config
from mmdistill_dense.registry import MODELS
from mmdistill_dense.utils.literals import literal

BASES = {'toy_seg': 'afdcd/toy_seg.py', 'toy_det': 'maskd/toy_det.py'}
FAST = ['cwd:toy_seg', 'kd:toy_det']  # of `make test`


def names() -> list[str]:
    made = (one for method in methods() for one in combinations(method))
    return [one.name for one in made if one.pair in BASES and one.variant is None]


@pytest.mark.parametrize('name', FAST)
def test_the_base_trains_the_other_method_alone(name: str, tmp_path: Path) -> None:
    own = read_config(name).model.distillers.to_dict()
    line = ', '.join(f'{name}={literal(option)}' for name, option in own.items())
    path = tmp_path / 'mine.py'
    path.write_text(
        f"_base_ = __import__('mmdistill_dense').base('mmdistill_dense::{BASES[name.split(':')[1]]}')\n"
        f'model = dict(distillers=dict(_delete_=True, {line}))\n'
    )
    config = Config.fromfile(path)
    assert config.model.distillers.to_dict() == own
    init_default_scope(config.default_scope)
    config.model.teacher.pop('checkpoint', None)
    model = MODELS.build({**config.model, 'teacher': dict(config.model.teacher, allow_random=True)})
    assert [*model.distillers] == [*own]


@pytest.mark.soak
@pytest.mark.built('name', names)
def test_the_base_trains_each_method_alone(name: str, tmp_path: Path) -> None:
    test_the_base_trains_the_other_method_alone(name, tmp_path)
