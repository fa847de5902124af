"""Every leaf's networks and distillers can be built, at full width; long, so only with ``-m soak``."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

ROOT = Path(__file__).parents[2] / 'configs'
METHODS = sorted(path for path in ROOT.rglob('*.py') if path.parent.name in ('afdcd', 'kd', 'maskd'))


@pytest.mark.soak
@pytest.mark.parametrize('path', METHODS, ids=lambda path: path.stem)
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
