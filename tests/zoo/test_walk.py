"""Every config that can be named, at full width: it resolves and builds, its taps exist and can be compared.

The configs of a pair are built one after the other, as they share their networks. ``make soak`` builds the files and
the controls of each pair of networks, on one data set; ``make test-zoo`` builds all. In ``make test``,
``test_steps.py`` trains one config of each kind of network.
"""

from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest
from mmengine.config import Config

from mmdistill_dense.config.resolve import is_distill_model
from mmdistill_dense.distillers.feature import FeatureDistiller
from tests.every_config import CONTROLS, DATA, FILES, by_pair, every, name_of, named, read
from tests.zoo.networks import active, build, config, key_of


def walk(paths: list[Path]) -> None:
    for path in paths:
        try:
            check(path)
        except BaseException as error:
            error.add_note(f'in {name_of(path)}')
            raise


def one_of_each() -> list[str]:
    """Of pairs that differ in their data alone, the one with the most files."""
    found: dict[str, str] = {}
    for pair in sorted(by_pair(), key=lambda pair: len({*by_pair()[pair]} & {*FILES, *CONTROLS})):
        found[DATA.split(pair, maxsplit=1)[0]] = pair
    return sorted(found.values())


@pytest.mark.soak
@pytest.mark.built('pair', one_of_each)
def test_files_and_controls_build(pair: str) -> None:
    walk([path for path in by_pair()[pair] if path in {*FILES, *CONTROLS}])


@pytest.mark.zoo
@pytest.mark.built('pair', by_pair)
def test_every_config_builds(pair: str) -> None:
    walk(by_pair()[pair])


def check(path: Path) -> None:
    cfg = config(path)
    model = build(cfg)
    distillers = getattr(model, 'distillers', {})
    assert set(distillers) == (active(cfg.model) if is_distill_model(cfg.model) else set())
    assert not any('distillers' in key or 'teacher' in key for key in model.state_dict()), 'a checkpoint is a student'
    for key, distiller in distillers.items():
        assert distiller.teacher.taps, key
        assert not isinstance(distiller, FeatureDistiller) or distiller.levels, f'{key} compares nothing'


@cache
def without_distillers(path: Path) -> str:
    """One text for configs that run the same but for their distillers, whatever they are called."""
    found = {key: value for key, value in read(path).items() if key not in ('work_dir', 'distillers')}
    found['model'] = {key: value for key, value in found['model'].items() if key != 'distillers'}
    return key_of(found)


@cache
def distillers(path: Path) -> str | None:
    """One text for equal method options; None for a file of more than those."""
    options = Config.fromfile(path)
    return key_of(options.distillers) if set(options) == {'distillers'} else None


def run_of(path: Path) -> tuple[str, str]:
    """Two texts for what a config runs: of one without a file, those of its recipe and of its method options."""
    one = named().get(path)
    options = one and distillers(one.options)
    if one and options:
        return without_distillers(one.base), options
    return without_distillers(path), key_of(read(path).model.get('distillers'))


@pytest.mark.soak
def test_no_two_configs_are_the_same_run() -> None:
    seen = defaultdict(list)
    for path in every():
        seen[run_of(path)].append(name_of(path))
    assert not [names for names in seen.values() if len(names) > 1]


@pytest.mark.soak
def test_a_config_without_a_file_runs_its_recipe_with_its_method_options() -> None:
    """What the comparison above relies on, of a config of each method."""
    for path in {path.parent.name: path for path, one in named().items() if distillers(one.options)}.values():
        assert run_of(path) == (without_distillers(path), key_of(read(path).model.distillers)), name_of(path)
