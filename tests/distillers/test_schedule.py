"""The weight of a distiller over training: its schedule, and weights from ratios of gradients."""

import math
import random
import re
from itertools import pairwise
from statistics import median, quantiles

import pytest

from mmdistill_dense.distillers.schedule import Balance, Balancer, Measurement, Schedule, auto_ratio
from tests import toys

FALLING, KEY = [1, 1, 1, 0.75, 0.5, 0.25, 0, 0], 'distillers.x'


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


def is_valid(task, own_norm):
    return 1e-12 <= task < math.inf and 0 < own_norm < math.inf


def defined_weight(measurements, ratio, window, is_fixed):
    """The definition: of valid measurements a decaying mean without leaps; behind the window the median of the late."""
    log_ratios = [(iteration, math.log(task / norm)) for iteration, task, norm in measurements if is_valid(task, norm)]
    if is_fixed:
        late = [log_ratio for iteration, log_ratio in log_ratios if iteration >= window / 2]
        deciding = late if len(late) >= 4 else [log_ratio for _, log_ratio in log_ratios]
        return float(f'{min(max(ratio * math.exp(median(deciding)), 1e-6), 1e6):.4g}'), deciding
    unit, deciding = None, [log_ratio for _, log_ratio in log_ratios]
    for last in range(len(deciding)):
        decays = [0.8 ** (last - index) for index in range(last + 1)]
        mean = math.exp(sum(map(math.prod, zip(decays, deciding, strict=False))) / sum(decays))
        unit = mean if last < 3 else min(max(mean, unit / 2), unit * 2)
    return 0.0 if unit is None else min(max(ratio * unit, 1e-6), 1e6), deciding


@pytest.mark.parametrize('seed', range(12))
def test_weights_are_the_definitions_also_when_resumed(seed):
    """Some measurements are invalid, and one of the seeds has too few valid ones in the second half of the window."""
    draw = random.Random(seed)
    until, spread = draw.choice([0.25, 0.5, 301, 1.0]), draw.choice([0.3, 1.5, 12.0])
    invalid_share = draw.choice([0.0, 0.2, 0.9 if seed % 2 else 0.2])
    balancer, measurements, lines = Balancer(Balance(3.0, until)), [], []
    assert balancer.weight == 1.0, 'outside of training'
    balancer.start(1200, 1)
    window = until if isinstance(until, int) else until * 1200
    for iteration in range(1200):
        if iteration in (100, 700):  # goes on from a file
            state, balancer = balancer.state(), Balancer(Balance(3.0, until))
            balancer.load(state)
            assert balancer.state() == state
            balancer.start(1200, 1)
        if iteration + 1 >= window and not any(is_valid(task, own_norm) for _, task, own_norm in measurements):
            return  # ends with an error, see below
        lines += balancer.begin(iteration, float(iteration % 7 > 0), KEY)
        assert not (balancer.due and iteration % 7 == 0), 'a factor of 0 is not measured'
        if balancer.due:
            measurement = Measurement(iteration, math.exp(draw.gauss(0, spread)), math.exp(draw.gauss(0, spread)))
            if draw.random() < invalid_share:
                norm = draw.choice([dict(task=0.0), dict(method=math.inf), dict(method=math.nan), dict(method=0.0)])
                measurement = measurement._replace(**norm)
            measurements.append(tuple(measurement))
            balancer.add(measurement, 5.0, KEY)
        expected, deciding = defined_weight(measurements, 3.0, window, iteration >= window)
        assert balancer.weight == pytest.approx(expected, rel=1e-9), iteration
    if until != 1.0:
        low, _, high = quantiles(deciding, method='inclusive')
        assert f'from {len(deciding)} measurements (x/÷ {math.exp((high - low) / 2):.2f})' in lines[0][1]
        assert lines[0][1].endswith(f'balance=None, loss_weight={balancer.weight!r}')
        late = sum(is_valid(task, own_norm) and iteration >= window / 2 for iteration, task, own_norm in measurements)
        assert [f'only {late} valid measurements' in line for _, line in lines[1:]] == [True] * (late < 4)


@pytest.mark.parametrize(('max_iters', 'terms', 'until', 'count'), [
    (1200, 1, 0.25, 32), (600, 1, 0.25, 20), (1200, 3, 0.25, 20), (100, 2, 0.25, 8), (4, 1, 0.25, 1), (40000, 1, 3, 3),
])  # fmt: skip
def test_the_plan(max_iters, terms, until, count):
    balancer = Balancer(Balance(3.0, until))
    balancer.start(max_iters, terms)
    plan, window = sorted(balancer.plan), balancer.window
    assert len(plan) == count and plan[0] == 0 and plan[-1] < window
    late = [iteration for iteration in plan if iteration >= window / 2]
    assert len(late) >= min(4, len([iteration for iteration in range(max_iters) if window / 2 <= iteration < window]))
    gaps = [after - before for before, after in pairwise(late)]
    assert count <= 8 or ({0, 2, 4, 8, 16, 32} <= {*plan} and max(gaps) - min(gaps) <= 1)


def test_a_fixed_weight_stays_in_a_run_of_another_length():
    state = dict(tries=[[0, 1.0, 1.0], [50, 1.0, 0.5]], unit=2.0)
    for unit in (2.0, None):
        balancer = Balancer(Balance(3.0))
        balancer.load({**state, 'unit': unit})
        balancer.start(12000, 1)
        lines = balancer.begin(max(iteration for iteration in balancer.plan if iteration < 3000), 1.0, KEY)
        assert not lines and balancer.due == (unit is None) and (unit is None or balancer.weight == 6.0)


@pytest.mark.parametrize(('task', 'own_norm', 'error', 'words'), [
    (0.0, 1.0, RuntimeError, r'iteration 10 was valid.*labelled: 0: 0 and 1, 2: 0 and 1.*loss_weight'),
    (1.0, 0.0, RuntimeError, 'distillers.x gives no gradient at the backbone: in .* measurements until iteration [56]'),
    (1.0, 1e9, None, 'is cut to 1e-06. Its loss is 5 before the weight'),
    (1.0, 1e-9, None, r'is cut to 1e\+06'),
])  # fmt: skip
def test_what_cannot_be_measured_ends_the_run_or_is_cut_once(task, own_norm, error, words):
    balancer, lines = Balancer(Balance(3.0)), []
    balancer.start(40, 1)
    with pytest.raises(error or StopIteration, match=words if error else None):
        for iteration in range(11):
            lines += [line for _, line in balancer.begin(iteration, 1.0, KEY)]
            lines += [balancer.add(Measurement(iteration, task, own_norm), 5.0, KEY) or ''] if balancer.due else []
        raise StopIteration
    if error is None:
        assert len([line for line in lines if re.search(words, line)]) == 1
    behind = Balancer(Balance(3.0))
    behind.start(40, 1)
    with pytest.raises(RuntimeError, match='none measured.*give loss_weight'):
        behind.begin(20, 1.0, KEY)


def test_auto_is_shared_by_distillers():
    assert [auto_ratio(count, sgd) for sgd in (False, True) for count in (1, 4)] == [10.0, 5.0, 2.0, 1.0]
    balancer = Balancer(Balance('auto'))
    balancer.choose_ratio(5.0)
    balancer.start(40, 1)
    balancer.begin(0, 1.0, KEY)
    balancer.add(Measurement(0, 2.0, 1.0), 1.0, KEY)
    assert balancer.weight == 10.0


def test_the_short_form():
    assert Balance.parse(10) == Balance(10) and Balance.parse(dict(ratio=2.0, until=100)) == Balance(2.0, 100)
    distiller = toys.MaskedMimic('a', balance=None, loss_weight=None)
    assert distiller.balancer is None and distiller.weight() == 1.0 and 'loss_weight=1.0' in repr(distiller)
    assert 'Balance(ratio=2.0, until=0.25)' in repr(toys.MaskedMimic('a', balance=2.0, loss_weight=None))
