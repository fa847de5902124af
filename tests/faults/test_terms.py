"""No method hides values that are no numbers: what its teacher or student gives shows in its losses."""

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmdistill_dense.registry import DISTILLERS
from tests.distillers.case import DistillerCase

FOLDER = Path(__file__).parents[1] / 'distillers'
# They ask a head or a decoder of the teacher: tests/distillers/test_heads.py, test_crosskd.py and test_kddetr.py
ON_OTHER_TAPS = {'RoIHeadKD', 'CrossKD', 'KDDETR'}


def cases() -> dict[str, type[DistillerCase]]:
    """The shared case of every method, by file and name."""
    for path in FOLDER.glob('test_*.py'):
        importlib.import_module(f'tests.distillers.{path.stem}')
    return {f'{one.__module__.rpartition(".")[2]}.{one.__name__}': one for one in _below(DistillerCase)}


def _below(case: type[DistillerCase]) -> Iterator[type[DistillerCase]]:
    for one in case.__subclasses__():
        yield from [one] if hasattr(one, 'option') and one.__name__.startswith('Test') else []
        yield from _below(one)


CASES = cases()


@pytest.mark.parametrize('side', ['student', 'teacher'])
@pytest.mark.parametrize('name', CASES)
def test_maps_that_are_no_numbers_show_in_the_losses(name: str, side: str) -> None:
    case = CASES[name]()
    distiller = case.make()
    maps = dict(zip(('student', 'teacher'), case.maps(distiller), strict=True))
    maps[side] = {tap: [tensor * float('nan') for tensor in tensors] for tap, tensors in maps[side].items()}
    losses = distiller.step(maps['student'], maps['teacher'], case.samples)
    assert not all(value.isfinite() for value in losses.values())


def test_every_method_is_among_them() -> None:
    shipped = {name for name, one in DISTILLERS.module_dict.items() if one.__module__.startswith('mmdistill_dense.')}
    assert {case.option['type'] for case in CASES.values()} >= shipped - ON_OTHER_TAPS
