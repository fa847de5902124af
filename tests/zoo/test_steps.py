"""A training step of all configs at reduced width; every one once in ``make test-zoo``.

``make test`` takes a step with each kind of network (``tests/model/test_settings.py`` takes one of each method).
``make soak`` takes one for each pair of networks, each data set, each variant of a method, and each method for each
task.
"""

import re
from functools import cache
from pathlib import Path

import pytest

from mmdistill_dense.config.resolve import is_distill_model
from tests.every_config import DATA, cover, every, family, name_of, named
from tests.zoo.networks import active, config
from tests.zoo.steps import step

TRAINED = [path for path in every() if path.parent.name != 'teachers']
TASKS = dict(convolutional='segmentation', transformer='segmentation', backbone='pre-training')


def task(path: Path) -> str:
    return 'any' if re.search(r'dinov\d-', path.stem) else TASKS.get(family(path), 'detection')


def chosen() -> list[Path]:
    """One config of each kind of network, foundation models among them, each of another method."""
    found: dict[str, Path] = {}
    for path in TRAINED:
        kind = 'foundation' if task(path) == 'any' else family(path)
        if kind not in found and path.parent.name not in {one.parent.name for one in found.values()}:
            found[kind] = path
    return list(found.values())


@cache
def standing_for_all() -> list[Path]:
    """As few configs as hold all networks and data sets, each variant of each method, each method for each task."""
    left = {}
    for path in TRAINED:
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


@pytest.mark.parametrize('path', chosen(), ids=name_of)
def test_a_step_with_each_kind_of_network(path: Path, tmp_path: Path) -> None:
    check_step(path, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize('path', standing_for_all(), ids=name_of)
def test_a_step_of_configs_that_stand_for_all(path: Path, tmp_path: Path) -> None:
    check_step(path, tmp_path)


@pytest.mark.zoo
@pytest.mark.parametrize('path', TRAINED, ids=name_of)
def test_a_step_of_each_config(path: Path, tmp_path: Path) -> None:
    check_step(path, tmp_path)
