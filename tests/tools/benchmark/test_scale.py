from dataclasses import replace

import pytest

from tools.benchmark import pcd_cases, scale
from tools.benchmark.method_cases import METHODS


@pytest.mark.parametrize('power', [0.0, 1.0, 2.0])
def test_the_exponent_is_that_of_the_growth(power: float) -> None:
    sizes = (1, 2, 4, 8)
    assert scale.exponent(sizes, [3.0 * size**power for size in sizes]) == pytest.approx(power)


def test_the_exponent_of_noise_is_the_least_squares_slope() -> None:
    assert scale.exponent((1, 10, 100), (1, 10, 1)) == pytest.approx(0)


@pytest.mark.parametrize('sizes, values', [((2, 2), (1.0, 1.0)), ((1, 2), (0.0, 1.0))])
def test_values_without_an_exponent_are_refused(sizes: tuple, values: tuple) -> None:
    with pytest.raises(ValueError, match='two different positive sizes'):
        scale.exponent(sizes, values)


def test_every_method_grows() -> None:
    """By exactly the factor, along each of its axes; nothing but names of sizes and cases is made."""
    assert set(scale.SUBJECTS) == set(METHODS)
    for name, subject in scale.SUBJECTS.items():
        assert {'batch', 'channels'} <= set(subject.axes) or name == 'pcd'
        for axis, grow in subject.axes.items():
            assert grow(subject.size, 2) != grow(subject.size, 4), (name, axis)
        assert set(subject.concerned) <= set(subject.axes)


def test_rows_are_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(scale.SUBJECTS['pcd'], size=pcd_cases.Size(32, 8, 64, repeats=1))
    monkeypatch.setitem(scale.SUBJECTS, 'pcd', small)
    rows = scale.measure(repeats=1, methods=['pcd'], factors=(1, 2))
    assert [row.axis for row in rows] == ['pixels', 'channels', 'queue']
    for row, figures in zip(rows, scale.figures(rows), strict=True):
        assert len(row.seconds) == len(row.extra_bytes) == 2 and min(row.seconds) > 0
        assert figures['time_exponent'] == row.time_exponent
    table = scale.as_markdown(rows)
    assert table.count('| pcd | pixels against the queue |') == 3 and '| queue | 1, 2 |' in table
    chart = scale.chart(rows)
    assert len(chart.bars) == 3 and chart.mark == 1.0


def test_memory_does_not_grow_with_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = scale.measure(repeats=1, methods=['pcd'], over=['queue'], factors=(1, 2))
    assert abs(row.memory_exponent) < 0.01


def test_unknown_methods_and_axes_are_refused() -> None:
    with pytest.raises(ValueError, match='no method cdw; there are afdcd, at,'):
        scale.measure(methods=['cdw'])
    with pytest.raises(ValueError, match='kd cannot grow over queue; choose from batch, channels, pixels'):
        scale.measure(methods=['kd'], over=['queue'])
