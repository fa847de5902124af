"""Every config that can be named, at full width: it resolves and builds, its taps exist and can be compared.

The configs of a pair are built one after the other, as they share their networks.
"""

from collections import defaultdict
from pathlib import Path

import pytest

from mmdistill_dense.config.resolve import is_distill_model
from mmdistill_dense.distillers.feature import FeatureDistiller
from tests.every_config import every, name_of
from tests.zoo.networks import active, build, config, run_of


def by_pair() -> dict[str, list[Path]]:
    """All configs, by the pair's name without its variants."""
    found: dict[str, list[Path]] = {}
    for path in sorted(every(), key=lambda path: path.stem):
        start = next((stem for stem in found if path.stem.startswith(f'{stem}_')), path.stem)
        found.setdefault(start, []).append(path)
    return found


@pytest.mark.parametrize('pair', by_pair())
def test_every_config_builds(pair: str) -> None:
    for path in by_pair()[pair]:
        try:
            check(path)
        except BaseException as error:
            error.add_note(f'in {name_of(path)}')
            raise


def check(path: Path) -> None:
    cfg = config(path)
    run_of(path)  # kept for the comparison below, which would have to read them all again
    model = build(cfg)
    distillers = getattr(model, 'distillers', {})
    assert set(distillers) == (active(cfg.model) if is_distill_model(cfg.model) else set())
    assert not any('distillers' in key or 'teacher' in key for key in model.state_dict()), 'a checkpoint is a student'
    for key, distiller in distillers.items():
        assert distiller.teacher.taps, key
        assert not isinstance(distiller, FeatureDistiller) or distiller.levels, f'{key} compares nothing'


def test_no_two_configs_are_the_same_run() -> None:
    seen = defaultdict(list)
    for path in every():
        seen[run_of(path)].append(name_of(path))
    assert not [names for names in seen.values() if len(names) > 1]
