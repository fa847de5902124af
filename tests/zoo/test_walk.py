"""Every shipped leaf at full width: it resolves and builds, its taps exist, what they hold can be compared."""

from collections import defaultdict
from pathlib import Path

import pytest

from mmdistill_dense.config.resolve import is_distill_model
from mmdistill_dense.distillers.feature import FeatureDistiller
from tests.zoo.leaves import LEAVES, active, build, config, name, run_of


@pytest.mark.parametrize('path', LEAVES, ids=name)
def test_leaf_builds(path: Path) -> None:
    cfg = config(path)
    run_of(path)  # kept for the comparison below, which would have to read them all again
    model = build(cfg)
    distillers = getattr(model, 'distillers', {})
    assert set(distillers) == (active(cfg.model) if is_distill_model(cfg.model) else set())
    assert not any('distillers' in key or 'teacher' in key for key in model.state_dict()), 'a checkpoint is a student'
    for key, distiller in distillers.items():
        assert distiller.teacher.taps, key
        assert not isinstance(distiller, FeatureDistiller) or distiller.levels, f'{key} compares nothing'


def test_no_two_leaves_are_the_same_run() -> None:
    seen = defaultdict(list)
    for path in LEAVES:
        seen[run_of(path)].append(name(path))
    assert not [names for names in seen.values() if len(names) > 1]
