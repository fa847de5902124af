"""What the monitor says of several taps: a value for each level, under the name of its own tap."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mmdistill_dense import distillers
from mmdistill_dense.apps.inspect.gradients import _energy_cosine, tap_agreement
from mmdistill_dense.distillers import PCD, Distiller, FeatureDistiller

SIZES = {'a': (2, 6, 4, 4), 'b[1]': (2, 6, 4, 2)}
OPTIONS: dict[str, dict[str, Any]] = {'AfDCD': dict(ctr_weight=0.0), 'CIRKD': dict(num_classes=3)}
NEEDS_MORE = {'FeatureDistiller', 'FreeKD', 'HeadOutputKD', 'MasKD'}  # the base class, heads' options, tokens
METHODS = [
    method
    for method in vars(distillers).values()
    if isinstance(method, type) and issubclass(method, (PCD, FeatureDistiller)) and method.__name__ not in NEEDS_MORE
]


def maps(views: int = 1, seed: int = 0) -> dict[str, list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return {tap: [torch.randn(size, generator=generator) for _ in range(views)] for tap, size in SIZES.items()}


def made(method: type[Distiller], student: list[str], teacher: list[str] | None = None, **options: Any) -> Distiller:
    torch.manual_seed(0)
    distiller = method(student, teacher, **OPTIONS.get(method.__name__, {}), **options)
    shapes = {tap: [torch.Size((1, *size[1:]))] for tap, size in SIZES.items()}
    distiller.setup(shapes, shapes)
    return distiller


def tap_of(name: str) -> str:
    return name.removeprefix('cosine.').removeprefix('energy.')


@pytest.mark.parametrize('views', [1, 2])
@pytest.mark.parametrize('method', METHODS, ids=lambda method: method.__name__)
def test_each_level_has_its_value_under_the_name_of_its_tap(method: type[Distiller], views: int) -> None:
    """Two views, as in pre-training, change no name. A map that changes moves the value of its own tap alone."""
    distiller, student, teacher = made(method, list(SIZES)), maps(views, seed=1), maps(views, seed=2)
    before = tap_agreement(distiller, student, teacher)
    assert [tap_of(name) for name in before] == list(SIZES)
    other = student | {'b[1]': [-x.roll(1, 0) for x in student['b[1]']]}
    moved = {name for name, value in tap_agreement(distiller, other, teacher).items() if value != before[name]}
    assert moved <= {name for name in before if tap_of(name) == 'b[1]'}
    again = tap_agreement(distiller, maps(views, seed=3), teacher)
    assert all(again[name] != value for name, value in before.items())


@pytest.mark.parametrize('method', [PCD, distillers.PKD])
def test_the_values_are_the_cosines_of_the_taps(method: type[Distiller]) -> None:
    options = dict(head=None, queue_init='random', queue_size=5) if method is PCD else {}
    distiller, teacher = made(method, list(SIZES), **options), maps()
    student = {'a': teacher['a'], 'b[1]': [-teacher['b[1]'][0]]}
    found = {name: float(value) for name, value in tap_agreement(distiller, student, teacher).items()}
    assert found == pytest.approx({'cosine.a': 1.0, 'cosine.b[1]': -1.0}, abs=1e-5)


@pytest.mark.parametrize('method', [PCD, distillers.FitNet])
def test_a_tap_of_the_student_may_meet_two_of_the_teacher(method: type[Distiller]) -> None:
    distiller = made(method, ['a', 'a'], list(SIZES), resize='student')
    found = tap_agreement(distiller, maps(seed=1), maps(seed=2))
    assert list(found) == ['cosine.a.a', 'cosine.a.b[1]']


def test_the_energy_of_a_smaller_map_is_enlarged() -> None:
    student = torch.rand(2, 3, 4, 6)
    found = _energy_cosine(student, torch.ones(2, 5, 2, 3))
    energy = student.square().sum(1).flatten(1)
    torch.testing.assert_close(found, torch.nn.functional.cosine_similarity(energy, torch.ones_like(energy)).mean())
