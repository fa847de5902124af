"""One line swaps the method of a ready config, for every method: README's ``_delete_``."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdistill_dense.apps.recipes.compose import methods
from mmdistill_dense.apps.recipes.named import combinations
from mmdistill_dense.registry import MODELS
from mmdistill_dense.utils.literals import literal

BASES = {'toy_seg': 'afdcd/toy_seg.py', 'toy_det': 'maskd/toy_det.py'}
NAMES = [one for method in methods() for one in combinations(method) if one.pair in BASES and one.variant is None]


FAST = ('cwd:toy_seg', 'kd:toy_det')  # of `make test`
MARKS = [() if one.name in FAST else pytest.mark.soak for one in NAMES]


@pytest.mark.parametrize(
    'named', [pytest.param(one, id=one.name, marks=marks) for one, marks in zip(NAMES, MARKS, strict=True)]
)
def test_the_base_trains_the_other_method_alone(named, tmp_path: Path) -> None:
    own = named.config().model.distillers.to_dict()
    line = ', '.join(f'{name}={literal(option)}' for name, option in own.items())
    path = tmp_path / 'mine.py'
    path.write_text(
        f"_base_ = __import__('mmdistill_dense').base('mmdistill_dense::{BASES[named.pair]}')\n"
        f'model = dict(distillers=dict(_delete_=True, {line}))\n'
    )
    config = Config.fromfile(path)
    assert config.model.distillers.to_dict() == own
    init_default_scope(config.default_scope)
    config.model.teacher.pop('checkpoint', None)
    model = MODELS.build({**config.model, 'teacher': dict(config.model.teacher, allow_random=True)})
    assert [*model.distillers] == [*own]
