"""Statistics against tables, integration and formulas written out."""

import math

import numpy as np
import pytest

from mmdistill_dense.suite.table.paired import paired_gain, summarise, t_quantile

TABLE = {1: 12.70620474, 2: 4.30265273, 3: 3.18244631, 4: 2.77644511, 5: 2.57058184, 9: 2.26215716, 30: 2.04227246}


@pytest.mark.parametrize(('freedom', 'expected'), TABLE.items())
def test_quantiles_are_those_of_the_printed_table(freedom: int, expected: float) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(expected, abs=1e-8)
    assert t_quantile(0.025, freedom) == pytest.approx(-expected, abs=1e-8)


@pytest.mark.parametrize('freedom', [1, 2, 3, 6, 7, 40])
@pytest.mark.parametrize('probability', [0.6, 0.9, 0.995])
def test_the_density_integrates_to_the_probability(freedom: int, probability: float) -> None:
    nodes, weights = np.polynomial.legendre.leggauss(200)
    bound = t_quantile(probability, freedom)
    points = bound * (nodes + 1) / 2
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    density = scale * (1 + points**2 / freedom) ** (-(freedom + 1) / 2)
    assert 0.5 + bound / 2 * (weights * density).sum() == pytest.approx(probability, abs=1e-10)


def test_the_middle_is_zero_and_impossible_arguments_are_refused() -> None:
    assert t_quantile(0.5, 3) == pytest.approx(0, abs=1e-12)
    for arguments in ((1.0, 3), (0.0, 3), (0.9, 0)):
        with pytest.raises(ValueError, match='needs 0 < probability < 1 and freedom >= 1'):
            t_quantile(*arguments)


def test_summary_is_of_a_sample() -> None:
    values = [39.7, 38.8, 38.8, 41.25]
    summary = summarise(values)
    assert (summary.n, summary.mean) == (4, pytest.approx(np.mean(values)))
    assert summary.sd == pytest.approx(np.std(values, ddof=1))
    assert summarise([]) is None and summarise([3.0]).sd is None


def test_gain_is_that_of_the_pairs() -> None:
    """Three published probes: +1.29, +2.61, +0.41 has t = 2.25, so zero lies inside."""
    control = {0: 35.86, 1: 35.20, 2: 36.93}
    gain = paired_gain({0: 37.15, 1: 37.81, 2: 37.34}, control)
    assert gain.each == pytest.approx({0: 1.29, 1: 2.61, 2: 0.41})
    assert gain.mean / (gain.sd / math.sqrt(3)) == pytest.approx(2.25, abs=0.01)
    half = 4.30265273 * np.std([1.29, 2.61, 0.41], ddof=1) / math.sqrt(3)
    assert (gain.low, gain.high) == (pytest.approx(gain.mean - half), pytest.approx(gain.mean + half))
    assert gain.half == pytest.approx(half) and not gain.told_apart


@pytest.mark.parametrize('sign', [1, -1])
def test_a_clear_gain_and_a_clear_loss_are_told_apart(sign: int) -> None:
    gain = paired_gain({seed: 40 + sign * (3 + 0.1 * seed) for seed in range(3)}, dict.fromkeys(range(3), 40.0))
    assert gain.told_apart and gain.low * gain.high > 0


def test_the_noise_that_pairs_share_widens_nothing() -> None:
    control = {0: 30.0, 1: 50.0, 2: 70.0}
    gain = paired_gain({seed: score + 1 for seed, score in control.items()}, control)
    assert (gain.low, gain.high) == (pytest.approx(1), pytest.approx(1))


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
