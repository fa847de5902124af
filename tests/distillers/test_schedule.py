"""The weight of a distiller over training."""

import pytest

from mmdistill_dense.distillers.schedule import Schedule
from tests import toys

FALLING = [1, 1, 1, 0.75, 0.5, 0.25, 0, 0]


@pytest.mark.parametrize(('options', 'course'), [
    ({}, [1] * 8),
    *((dict(warmup=point), [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]) for point in (4, 0.5)),
    *((dict(ramp_down=points), FALLING) for points in ((2, 6), (0.25, 0.75), [2, 0.75])),
    *((dict(stop_at=point), [1, 1, 1, 0, 0, 0, 0, 0]) for point in (3, 0.375)),
    (dict(warmup=2, ramp_down=(4, 8), stop_at=7), [0.5, 1, 1, 1, 1, 0.75, 0.5, 0]),
])  # fmt: skip
def test_the_course_of_eight_iterations(options, course):
    assert [round(Schedule(**options).factor(iteration, 8), 6) for iteration in range(8)] == course


@pytest.mark.parametrize(('options', 'warning'), [
    (dict(stop_at=0), 'the weight is 0 in the whole run'),
    (dict(warmup=1000), 'warmup is iteration 1000, but the weight ends at iteration 8 of 8'),
    (dict(warmup=100, stop_at=2), 'warmup is iteration 100, but the weight ends at iteration 2 of 8'),
    (dict(warmup=6, ramp_down=(1, 4), stop_at=7), 'warmup is iteration 6, but the weight ends at iteration 4 of 8'),
    (dict(warmup=6, ramp_down=(1, 7), stop_at=4), 'warmup is iteration 6, but the weight ends at iteration 4 of 8'),
    (dict(ramp_down=(4000, 8000)), 'ramp_down[0] is iteration 4000, but'),
    (dict(warmup=4, ramp_down=(2, 1.0)), None),
    (dict(ramp_down=(0.4, 0.6), stop_at=7), None),
])  # fmt: skip
def test_a_part_without_effect_is_warned_of(options, warning):
    message = Schedule(**options).check('model.x', 8)
    assert warning in message if warning else message is None


def test_what_no_run_can_do_is_refused():
    with pytest.raises(ValueError, match=r'begins at iteration 6 and ends at 4 of 8'):
        Schedule(ramp_down=(6, 0.5)).check('model.x', 8)
    with pytest.raises(RuntimeError, match=r'fraction of the run.*calls model\.distillation\.start'):
        Schedule(stop_at=0.5).factor(0, 0)
    assert Schedule(warmup=2, ramp_down=(4, 8), stop_at=7).factor(5, 0) == 0.75, 'iterations need no length'


def test_no_weight_is_a_weight_of_1():
    distiller = toys.MaskedMimic('a', loss_weight=None)
    assert distiller.weight() == 1.0 and 'loss_weight=1.0' in repr(distiller)
