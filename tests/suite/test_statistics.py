"""Statistics against tables, integration and formulas written out."""

import math

import numpy as np
import pytest

from mmdistill_dense.apps.suite.rows import Gain, holm, paired_gain, summarise


def gains_of(scores: dict[str, dict[int, float]], control: dict[int, float]) -> dict[str, Gain | None]:
    return holm({name: paired_gain(own, control) for name, own in scores.items()})


TABLE = {1: 12.70620474, 2: 4.30265273, 3: 3.18244631, 4: 2.77644511, 5: 2.57058184, 9: 2.26215716, 30: 2.04227246}


@pytest.mark.parametrize(('freedom', 'expected'), TABLE.items())
def test_intervals_are_those_of_the_printed_table(freedom: int, expected: float) -> None:
    """One pair with a difference of 1, the others with none: standard error 1 / n."""
    scores = {seed: float(seed == 0) for seed in range(freedom + 1)}
    gain = paired_gain(scores, dict.fromkeys(scores, 0.0))
    assert gain.half * gain.n == pytest.approx(expected, abs=1e-8)
    assert gain.low == pytest.approx(gain.mean - gain.half)


@pytest.mark.parametrize('pairs', [2, 3, 7, 8, 41])
def test_the_density_beyond_the_mean_integrates_to_its_p(pairs: int) -> None:
    nodes, weights = np.polynomial.legendre.leggauss(200)
    gain = paired_gain({seed: 40 + math.sin(seed) for seed in range(pairs)}, dict.fromkeys(range(pairs), 39.5))
    freedom, bound = pairs - 1, gain.mean / (gain.sd / math.sqrt(pairs))
    points = bound * (nodes + 1) / 2
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    density = scale * (1 + points**2 / freedom) ** (-(freedom + 1) / 2)
    assert 1 - bound * (weights * density).sum() == pytest.approx(gain.p, abs=1e-10)


@pytest.mark.parametrize('shift', [0.0, 1.0, 1.3, 1.4, 2.0, -5.0])
def test_p_says_of_a_row_alone_what_its_interval_says(shift: float) -> None:
    gain = paired_gain({0: 1.29 + shift, 1: 2.61 + shift, 2: 0.41 + shift}, dict.fromkeys(range(3), 0.0))
    assert gain.told_apart == (gain.low * gain.high > 0) == (gain.p < 0.05)


def test_p_values_are_holms() -> None:
    """Sorted p: the smallest times 4, the next times 3, and so on; none below the one before, none above 1."""
    control = {0: 0.0, 1: 0.0, 2: 0.0}
    scores = {name: {0: t - 1, 1: t, 2: t + 1} for name, t in (('b', 3.0), ('a', 9.0), ('d', 0.1), ('c', 2.9))}
    alone = {name: paired_gain(own, control).p for name, own in scores.items()}
    gains = gains_of({**scores, 'none': {7: 1.0}, 'one': {0: 1.0}}, control)
    assert gains['none'] is None and gains['one'].p is None
    found = {name: gains[name].p for name in alone}
    holm = {'a': 4 * alone['a'], 'b': 3 * alone['b'], 'c': 3 * alone['b'], 'd': alone['d']}
    assert 2 * alone['c'] < 3 * alone['b'] and found == pytest.approx(holm)
    assert [name for name in gains if gains[name] and gains[name].told_apart] == ['a']
    many = gains_of({str(row): scores['d'] for row in range(9)}, control)
    assert {gain.p for gain in many.values()} == {1.0}


@pytest.mark.parametrize('difference', [0.0, 0.3, -0.5])
def test_equal_differences_say_nothing_about_the_noise(difference: float) -> None:
    """Box AP is rounded to 0.1, so two seeds often differ by the same; that is no proof."""
    control = {0: 29.8, 1: 31.0}
    gain = paired_gain({seed: score + difference for seed, score in control.items()}, control)
    assert gain.mean == pytest.approx(difference)
    assert gain.low is gain.high is gain.p is None and not gain.told_apart


def test_summary_is_of_a_sample() -> None:
    values = [39.7, 38.8, 38.8, 41.25]
    summary = summarise(values)
    assert (summary.n, summary.mean) == (4, pytest.approx(np.mean(values)))
    assert summary.sd == pytest.approx(np.std(values, ddof=1))
    assert summarise([]) is None and summarise([3.0]).sd is None


def test_only_seeds_of_both_make_pairs() -> None:
    gain = paired_gain({2: 42.0, 0: 41.0, 7: 99.0}, {0: 40.0, 1: 1.0, 2: 40.0})
    assert list(gain.each) == [0, 2] and gain.n == 2 and gain.mean == 1.5
    assert paired_gain({1: 41.0}, {2: 40.0}) is None


def test_a_single_pair_has_no_interval() -> None:
    gain = paired_gain({0: 41.0}, {0: 40.0})
    assert (gain.n, gain.mean, gain.low, gain.high, gain.half) == (1, 1.0, None, None, None)
    assert not gain.told_apart


def test_a_diverged_run_stays_in_its_row() -> None:
    gain = paired_gain({0: math.nan, 1: 41.0}, {0: 40.0, 1: 40.0})
    assert gain.n == 2 and math.isnan(gain.mean) and not gain.told_apart
    assert gains_of({'kd': {0: math.nan, 1: 41.0}}, {0: 40.0, 1: 40.0})['kd'].p == 1
