"""The course of a weight."""

import pytest

from mmdistill_dense.distillers.schedule import Schedule


def course(iters, **options):
    schedule = Schedule(**options)
    return [round(schedule.factor(i, iters), 6) for i in range(iters)]


def test_constant_by_default():
    assert course(4) == [1, 1, 1, 1]
    assert Schedule().factor(10**9, 0) == 1


@pytest.mark.parametrize('warmup', [4, 0.5])
def test_warmup_rises_to_one_at_its_point(warmup):
    assert course(8, warmup=warmup) == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]


@pytest.mark.parametrize('ramp', [(2, 6), (0.25, 0.75), (2, 0.75), [2, 6]])
def test_ramp_down_falls_between_its_points(ramp):
    assert course(8, ramp_down=ramp) == [1, 1, 1, 0.75, 0.5, 0.25, 0, 0]


@pytest.mark.parametrize('stop', [3, 0.375])
def test_stop_is_sudden(stop):
    assert course(8, stop_at=stop) == [1, 1, 1, 0, 0, 0, 0, 0]
    assert course(3, stop_at=0) == [0, 0, 0]


def test_parts_compose():
    assert course(8, warmup=2, ramp_down=(4, 8), stop_at=7) == [0.5, 1, 1, 1, 1, 0.75, 0.5, 0]


def test_a_fraction_of_one_is_the_end():
    assert course(4, stop_at=1.0) == [1, 1, 1, 1]
    assert course(4, ramp_down=(0.5, 1.0)) == [1, 1, 1, 0.5]


@pytest.mark.parametrize('options', [dict(ramp_down=(0, 1.0)), dict(stop_at=0.5), dict(warmup=0.1)])
def test_a_fraction_of_a_run_of_unknown_length_is_refused(options):
    """It would be 0 of 0 iterations: a falling weight would be 0, and a step would not do what it does in training."""
    with pytest.raises(RuntimeError, match=r'fraction of the run.*set model\.distillation\.state\.max_iters'):
        Schedule(**options).factor(0, 0)
    assert Schedule(warmup=2, ramp_down=(4, 8), stop_at=7).factor(5, 0) == 0.75


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(warmup=-1), r'schedule\.warmup must be.*got -1'),
        (dict(warmup=1.5), r'schedule\.warmup.*\(0, 1\].*got 1\.5'),
        (dict(warmup='10'), r"schedule\.warmup.*'10'"),
        (dict(warmup=True), r'schedule\.warmup.*True'),
        (dict(stop_at=0.0), r'schedule\.stop_at.*got 0\.0'),
        (dict(ramp_down=5), r'schedule\.ramp_down must be a pair.*got 5'),
        (dict(ramp_down=(1, 2, 3)), r'schedule\.ramp_down must be a pair'),
        (dict(ramp_down=(5, 5)), r'ramp_down must begin before it ends'),
        (dict(ramp_down=(0.5, 0.25)), r'ramp_down must begin before it ends'),
        (dict(ramp_down=(1, 2.0)), r'schedule\.ramp_down\[1\].*got 2\.0'),
    ],
)
def test_errors(options, words):
    with pytest.raises(ValueError, match=words):
        Schedule(**options)


def test_unknown_option():
    with pytest.raises(TypeError, match='warm_up'):
        Schedule(warm_up=3)
