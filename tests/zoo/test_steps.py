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
from tests.every_config import DATA, cover, every, family, name_of, named, place
from tests.zoo.networks import active, config
from tests.zoo.steps import step

TASKS = dict(convolutional='segmentation', transformer='segmentation', backbone='pre-training')


def task(path: Path) -> str:
    return 'any' if re.search(r'dinov\d-', path.stem) else TASKS.get(family(path), 'detection')


# one config of each kind of network, each of another method
CHOSEN = {
    'one-stage': 'control/atss_r101_to_r50_coco',
    'convolutional': 'afdcd/deeplabv3_r101_to_mobilenetv2_cityscapes',
    'queries': 'at/dino_r50_to_r18_coco',
    'transformer': 'cirkd/segformer_b4_to_b0_ade20k',
    'foundation': 'cwd/dinov2-vits14_to_deeplabv3_r18_ade20k',
    'two-stage': 'dist/faster_rcnn_cascade_mask_x101_to_r50_coco',
    'backbone': 'featurematch/mobilenetv2w05_from_mobilenetv2_small',
}


def kind_of(path: Path) -> str:
    return 'foundation' if task(path) == 'any' else family(path)


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


@pytest.mark.parametrize('name', CHOSEN.values())
def test_a_step_with_each_kind_of_network(name: str, tmp_path: Path) -> None:
    check_step(place(name), tmp_path)


@pytest.mark.soak
def test_each_kind_of_network_is_there() -> None:
    assert all(kind_of(place(name)) == kind for kind, name in CHOSEN.items())
    assert set(CHOSEN) == set(map(kind_of, trained()))


@pytest.mark.soak
@pytest.mark.built('path', standing_for_all, name_of)
def test_a_step_of_configs_that_stand_for_all(path: Path, tmp_path: Path) -> None:
    check_step(path, tmp_path)


@pytest.mark.zoo
@pytest.mark.built('path', trained, name_of)
def test_a_step_of_each_config(path: Path, tmp_path: Path) -> None:
    check_step(path, tmp_path)
