"""A leaf of every method and task builds at full width, with values; long, so only with ``-m soak``.

The other leaves are built without values, see :mod:`tests.zoo.test_walk`.
"""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmdistill_dense.compose import methods, parts_of
from mmdistill_dense.leaves import wanted

METHODS = sorted(
    {(name, parts_of(leaf.recipe).task): leaf.file for name in methods() for leaf in wanted(name)}.values()
)


@pytest.mark.soak
@pytest.mark.parametrize('path', METHODS, ids=lambda path: f'{path.parent.name}-{path.stem}')
def test_method_leaf_builds(path: Path) -> None:
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    active = {key for key, option in cfg.model.distillers.items() if option.get('loss_weight', 1) != 0}
    assert set(model.distillers) == active
    plain = MODELS.build({**cfg.model, 'distillers': {}})
    assert {key: value.shape for key, value in model.state_dict().items()} == {
        key: value.shape for key, value in plain.state_dict().items()
    }
    assert all(torch.isfinite(parameter).all() for parameter in model.distillers.parameters())
