"""Every config that can be named resolves, builds at full width with taps that can be compared, and takes a step.

``make test`` takes a step with each kind of network (``tests/model/test_settings.py`` takes one of each method), at
reduced width. ``make soak`` takes one for each pair of networks, each data set, each variant of a method, and each
method for each task, and builds the files and the controls of each pair of networks, on one data set. ``make test-zoo``
builds all, those of a pair one after the other, as they share their networks, and takes a step of all.
"""

import re
from functools import cache
from pathlib import Path

import pytest

from mmdistill_dense.config.resolve import is_distill_model
from mmdistill_dense.distillers.feature import FeatureDistiller
from tests.every_config import CONTROLS, DATA, FILES, by_pair, cover, every, family, name_of, named, place
from tests.zoo.networks import active, build, config
from tests.zoo.steps import CHOSEN, step

TASKS = dict(convolutional='segmentation', transformer='segmentation', backbone='pre-training')


def task(path: Path) -> str:
    return 'any' if re.search(r'dinov\d-', path.stem) else TASKS.get(family(path), 'detection')


def trained() -> list[Path]:
    return [path for path in every() if path.parent.name != 'teachers']


@cache
def standing_for_all() -> list[Path]:
    """As few configs as hold all networks and data sets, each variant of each method, each method for each task."""
    left = {}
    for path in trained():
        networks, *data = DATA.split(path.stem, maxsplit=1)
        variant = named()[path].variant if path in named() else ''
        left[path] = {networks, *data[:1], (path.parent.name, variant), (path.parent.name, task(path))}
    return cover(left)


def check_step(path: Path, folder: Path) -> None:
    cfg = config(path)
    runner = step(cfg, folder)
    (gradients,) = (hook for hook in runner.hooks if type(hook).__name__ == 'Gradients')
    assert gradients.finite and all(gradients.finite.values())
    trained = {parameter.split('.')[0] for parameter in gradients.finite}
    assert ('backbone' in trained) is not path.stem.endswith('_frozen')
    scalars = {key: value.current() for key, value in runner.message_hub.log_scalars.items()}
    expected = active(cfg.model) if is_distill_model(cfg.model) else set()
    assert {key.split('.')[1] for key in scalars if key.endswith('.share')} == expected
    for key in expected:
        losses = [value for term, value in scalars.items() if term.startswith(f'train/distill.{key}.loss_')]
        assert losses and all(0 <= value < float('inf') for value in losses), key
        owned = [parameter for parameter in gradients.finite if parameter.startswith(f'distillers.{key}.')]
        assert owned or not any(p.requires_grad for p in runner.model.distillers[key].parameters()), key


@pytest.mark.sample(2)
@pytest.mark.parametrize('name', CHOSEN.values())
def test_a_step_with_each_kind_of_network(name: str, tmp_path: Path) -> None:
    check_step(place(name), tmp_path)


@pytest.mark.soak
@pytest.mark.built('path', standing_for_all, name_of)
def test_a_step_of_configs_that_stand_for_all(path: Path, tmp_path: Path) -> None:
    check_step(path, tmp_path)


@pytest.mark.zoo
@pytest.mark.built('path', trained, name_of)
def test_a_step_of_each_config(path: Path, tmp_path: Path) -> None:
    check_step(path, tmp_path)


# At full width


def check_build(path: Path) -> None:
    cfg = config(path)
    model = build(cfg)
    distillers = getattr(model, 'distillers', {})
    assert set(distillers) == (active(cfg.model) if is_distill_model(cfg.model) else set()), path
    assert not any('distillers' in key or 'teacher' in key for key in model.state_dict()), 'a checkpoint is a student'
    for key, distiller in distillers.items():
        assert distiller.teacher.taps, (path, key)
        assert not isinstance(distiller, FeatureDistiller) or distiller.levels, f'{path}: {key} compares nothing'


def build_all(paths: list[Path]) -> None:
    for path in paths:
        try:
            check_build(path)
        except BaseException as error:
            error.add_note(f'in {name_of(path)}')
            raise


def one_of_each() -> list[str]:
    """Of pairs that differ in their data alone, the one with the most files."""
    actual: dict[str, str] = {}
    for pair in sorted(by_pair(), key=lambda pair: len({*by_pair()[pair]} & {*FILES, *CONTROLS})):
        actual[DATA.split(pair, maxsplit=1)[0]] = pair
    return sorted(actual.values())


@pytest.mark.soak
@pytest.mark.built('pair', one_of_each)
def test_files_build(pair: str) -> None:
    build_all([path for path in by_pair()[pair] if path in {*FILES, *CONTROLS}])


@pytest.mark.zoo
@pytest.mark.built('pair', by_pair)
def test_every_config_builds(pair: str) -> None:
    build_all(by_pair()[pair])
