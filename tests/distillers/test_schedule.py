"""The weight of a distiller over training: its schedule, and weights from ratios of gradients."""

import math

import numpy as np
import pytest

from mmdistill_dense.distillers.schedule import LARGEST, SMALLEST, Balance, Balancer, Schedule, Try, auto_ratio
from tests import toys

FALLING = [1, 1, 1, 0.75, 0.5, 0.25, 0, 0]


@pytest.mark.parametrize(('options', 'course'), [
    ({}, [1] * 8),
    *((dict(warmup=point), [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]) for point in (4, 0.5)),
    *((dict(ramp_down=points), FALLING) for points in ((2, 6), (0.25, 0.75), (2, 0.75), [2, 6])),
    *((dict(stop_at=point), [1, 1, 1, 0, 0, 0, 0, 0]) for point in (3, 0.375)),
    (dict(stop_at=0), [0] * 8),
    (dict(warmup=2, ramp_down=(4, 8), stop_at=7), [0.5, 1, 1, 1, 1, 0.75, 0.5, 0]),
])  # fmt: skip
def test_the_course_of_eight_iterations(options, course):
    schedule = Schedule(**options)
    assert [round(schedule.factor(i, 8), 6) for i in range(8)] == course


@pytest.mark.parametrize('options', [dict(ramp_down=(0, 1.0)), dict(stop_at=0.5), dict(warmup=0.1)])
def test_a_fraction_of_a_run_of_unknown_length_is_refused(options):
    """It would be 0 of 0 iterations: a falling weight would be 0, and a step would not do what it does in training."""
    with pytest.raises(RuntimeError, match=r'fraction of the run.*calls model\.distillation\.start'):
        Schedule(**options).factor(0, 0)
    assert Schedule(warmup=2, ramp_down=(4, 8), stop_at=7).factor(5, 0) == 0.75 and Schedule().factor(10**9, 0) == 1


@pytest.mark.parametrize(('options', 'words'), [
    (dict(stop_at=0), 'model.x.schedule: the weight is 0 in the whole run'),
    (dict(warmup=1000), 'warmup is iteration 1000, but the weight ends at iteration 8 of 8'),
    (dict(warmup=100, stop_at=2), 'warmup is iteration 100, but the weight ends at iteration 2 of 8'),
    (dict(ramp_down=(4000, 8000)), 'ramp_down[0] is iteration 4000, but'),
    (dict(warmup=4, ramp_down=(2, 1.0)), None),
    (dict(warmup=0.6), None),
    (dict(ramp_down=(0, 1.0)), None),
    (dict(ramp_down=(0.4, 0.6), stop_at=7), None),
    ({}, None),
])  # fmt: skip
def test_a_part_of_a_schedule_without_effect_is_said(options, words):
    told = Schedule(**options).check('model.x', 8)
    assert words in told if words else told is None
    with pytest.raises(ValueError, match=r'schedule\.ramp_down=\(6, 0\.5\) begins at iteration 6 and ends at 4 of 8'):
        Schedule(ramp_down=(6, 0.5)).check('model.x', 8)


KEY = 'distillers.x'


def slow_weight(tries, ratio):
    """The definition, in the window: decaying mean of logarithms, and no leap after the third measurement."""
    logs = [math.log(t / u) for _, t, u in tries]
    found = []
    for k in range(len(logs)):
        weights = [0.8 ** (k - j) for j in range(k + 1)]
        b = ratio * math.exp(sum(w * x for w, x in zip(weights, logs, strict=False)) / sum(weights))
        found.append(min(max(b, found[-1] / 2), found[-1] * 2) if k > 2 else b)
    return found[-1]


def slow_held(tries, ratio, window):
    """The definition, at the end of the window: the median of the second half, and the spread."""
    logs = [math.log(t / u) for i, t, u in tries if i >= window / 2]
    low, high = np.quantile(logs, [0.25, 0.75])
    return ratio * math.exp(np.median(logs)), math.exp((high - low) / 2)


def balancer(max_iters=1200, terms=1, **options):
    found = Balancer(Balance(**{'ratio': 3.0, **options}))
    found.start(max_iters, terms)
    return found


def fed(found, own=lambda i: 1.0, task=lambda i: 1.0, end=None, begin=0):
    """A run's steps until an iteration, or to the end of the window; the lines for the log."""
    lines = []
    for i in range(begin, int(found.window) + 1 if end is None else end):
        lines += found.begin(i, 1.0, KEY)
        if found.due:
            lines += filter(None, [found.add(Try(i, task(i), own(i)), 5.0, KEY)])
    return lines


def noise(seed):
    draw = np.random.default_rng(seed)
    values = np.exp(draw.normal(size=2000, scale=1.5))
    return lambda i: float(values[i])


# Formulas


def test_the_weight_in_the_window_is_the_definitions():
    found = balancer()
    for end in range(1, int(found.window) + 1):
        fed(found, noise(53), noise(3), end, begin=end - 1)
        assert found.weight == pytest.approx(slow_weight(found.tries, 3.0), rel=1e-12)
    assert len(found.tries) == 32


@pytest.mark.parametrize(('seed', 'until'), [(0, 0.25), (1, 0.5), (2, 301)])
def test_the_held_weight_is_the_median_of_the_second_half(seed, until):
    found = balancer(until=until)
    ((_, line),) = fed(found, noise(seed), noise(seed + 50))
    expected, spread = slow_held(found.tries, 3.0, found.window)
    assert found.weight == pytest.approx(expected, rel=1e-3) and found.weight == float(f'{found.weight:.4g}')
    assert f'x/÷ {spread:.2f}' in line and line.endswith(f'balance=None, loss_weight={found.weight!r}')
    assert line.startswith(f'{KEY}: weight {found.weight:g} from')
    held = found.weight
    for i in range(int(found.window) + 1, 1200):
        assert not found.begin(i, 1.0, KEY) and not found.due
    assert found.weight == held


def test_outliers():
    for bad, at, weight in (
        (1e-5, None, 3.0),  # the last one changes nothing that is held
        (1e-5, 16, 6.0),  # and one before it a factor of 2 at most
        (1e-3, 2, 139.25),  # but the first three may leap
    ):
        found = balancer()
        place = max(found.plan) if at is None else at
        fed(found, own=lambda i, place=place, bad=bad: bad if i == place else 1.0, end=at and at + 1)
        assert found.weight == pytest.approx(weight, rel=1e-3)


def test_until_1_follows_to_the_end():
    found = balancer(until=1.0)
    assert not fed(found, own=lambda i: 1.0 if i < 600 else 0.1, end=1200)
    assert found.unit is None and found.weight == pytest.approx(30, rel=0.2)


def test_state_resumes_to_the_bit():
    whole, first, second = balancer(), balancer(), balancer()
    fed(whole, noise(1), noise(2))
    fed(first, noise(1), noise(2), end=100)
    second.load(first.state())
    fed(second, noise(1), noise(2), begin=100)
    assert second.state() == whole.state() and second.weight == whole.weight


def test_what_is_held_stays_with_another_length_and_a_plan_is_made_anew():
    whole, other = balancer(), Balancer(Balance(3.0))
    fed(whole, noise(1), noise(2))
    other.load(whole.state())
    other.start(12000, 1)
    assert not other.begin(400, 1.0, KEY) and not other.due and other.weight == whole.weight
    first, longer = balancer(), Balancer(Balance(3.0))
    fed(first, end=100)
    longer.load(first.state())
    longer.start(2400, 1)
    fed(longer, begin=100)
    assert longer.unit == 1.0 and longer.tries[-1].iteration > 300


# Plan


@pytest.mark.parametrize(('max_iters', 'terms', 'until', 'count'), [
    (1200, 1, 0.25, 32),
    (40000, 3, 0.25, 32),
    (600, 1, 0.25, 20),
    (1200, 3, 0.25, 20),
    (300, 1, 0.25, 10),
    (100, 2, 0.25, 8),
    (24, 1, 0.25, 6),
    (4, 1, 0.25, 1),
    (40000, 1, 3, 3),
])  # fmt: skip
def test_the_plan(max_iters, terms, until, count):
    found = balancer(max_iters, terms, until=until)
    plan = sorted(found.plan)
    assert len(plan) == count and plan[0] == 0 and plan[-1] < found.window
    late = [i for i in plan if i >= found.window / 2]
    possible = len([i for i in range(max_iters) if found.window / 2 <= i < found.window])
    assert len(late) >= min(4, possible)
    if count > 8:
        assert {0, 2, 4, 8, 16, 32} <= set(plan)
        gaps = np.diff(late)
        assert gaps.max() - gaps.min() <= 1
        assert len(plan) * 0.3 * (1 + terms) <= 0.02 * max_iters


def test_the_ratio_of_auto_is_shared_by_the_distillers_and_lower_for_sgd():
    assert [auto_ratio(count, sgd) for sgd in (False, True) for count in (1, 4)] == [10.0, 5.0, 2.0, 1.0]


# Failures


@pytest.mark.parametrize(('task', 'own'), [
    (0.0, 1.0), (1e-13, 1.0), (math.nan, 1.0), (math.inf, 1.0), (1.0, 0.0), (1.0, math.inf), (1.0, math.nan)
])  # fmt: skip
def test_a_measurement_that_tells_nothing_is_dropped(task, own):
    found = balancer()
    assert found.weight == 1.0, 'outside of training'
    found.begin(0, 0.0, KEY)
    assert not found.due, 'a factor of 0 is not measured'
    found.begin(0, 1.0, KEY)
    found.add(Try(0, task, own), 1.0, KEY)
    assert found.weight == 0.0, 'until one is valid'
    found.begin(2, 1.0, KEY)
    found.add(Try(2, 1.0, 0.5), 1.0, KEY)
    assert found.weight == 6.0


def test_without_a_valid_one_the_run_ends_with_all_tries_and_one_that_begins_behind_the_window_at_once():
    words = r'distillers\.x\.balance: no measurement until iteration 10 was valid.*0: 0 and 1, 2: 0 and 1.*loss_weight'
    with pytest.raises(RuntimeError, match=words):
        fed(balancer(40), task=lambda i: 0.0)
    with pytest.raises(RuntimeError, match='none measured.*give loss_weight'):
        balancer(40).begin(20, 1.0, KEY)


def test_a_distiller_without_a_gradient_ends_the_run_in_the_middle_of_the_window():
    found = balancer()
    with pytest.raises(RuntimeError, match='distillers.x gives no gradient at the backbone: in .* measurements until'):
        fed(found, own=lambda i: 0.0)
    assert 150 <= found.tries[-1].iteration < 170
    late = balancer()
    fed(late, own=lambda i: 0.0 if i < 100 else 1.0)
    assert late.weight == 3.0


def test_few_deciding_measurements_are_warned_of_and_all_decide():
    found = balancer()
    (_, line), (_, warning) = fed(found, own=lambda i: math.nan if i > 150 else 1.0 + i / 100)
    assert 'only 0 valid measurements in the second half of the window, so all 19 decide' in warning
    logs = [-math.log(1 + one.iteration / 100) for one in found.tries[:19]]
    assert found.weight == pytest.approx(3 * np.exp(np.median(logs)), rel=1e-3)
    assert 'from 19 measurements' in line


@pytest.mark.parametrize(('own', 'limit'), [(1e9, SMALLEST), (1e-9, LARGEST)])
def test_a_weight_out_of_range_is_cut_with_one_warning(own, limit):
    found = balancer()
    warning, (_, line) = fed(found, own=lambda i: own)
    assert found.weight == limit and f'is cut to {limit:g}. Its loss is 5 before the weight' in warning
    assert line.startswith(f'{KEY}: weight {limit:g} ')


# Options


def test_the_short_form_and_none():
    assert Balance.parse(10) == Balance(10) and Balance.parse(dict(ratio=2.0, until=100)) == Balance(2.0, 100)
    plain = toys.MaskedMimic('a', balance=None, loss_weight=None)
    assert plain.balancer is None and plain.weight() == 1.0 and 'loss_weight=1.0' in repr(plain)
    assert 'Balance(ratio=2.0, until=0.25)' in repr(toys.MaskedMimic('a', balance=2.0, loss_weight=None))
