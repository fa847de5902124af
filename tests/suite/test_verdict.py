"""The verdict on scores that were made up: which method is best, in which words, and which student is used."""

import math
from typing import Any

import pytest

from mmdistill_dense.apps.suite.verdict import Gain, Row, holm, judge
from tools.simulate_verdict import simulate

CONTROL = {0: 50.0, 1: 50.1, 2: 50.2}


def row(name: str, scores: dict[int, float], val: dict[int, float], control: Row | None = None, **facts: Any) -> Row:
    """The row of a network with these scores on test and on val."""
    metrics, facts = {seed: {'val': {'mIoU': score}} for seed, score in val.items()}, {'metric': 'mIoU', **facts}
    results = {seed: {'score': score, 'metrics': metrics[seed], **facts} for seed, score in scores.items()}
    return Row(name, results, control)


ALONE = row('control', CONTROL, CONTROL)


@pytest.mark.parametrize(('rows', 'best', 'student'), [
    ({'proved': {0: 53.0, 1: 53.15, 2: 53.3}, 'lucky': {0: 53.6}}, 'proved', 'proved'),
    ({'good': {0: 60.0, 1: 60.2}, 'bad': {0: 51.0, 1: 51.1, 2: 51.4}}, 'good', 'good'),
    ({'whole': {0: 51.0, 1: 50.0, 2: 50.9}, 'lucky': {0: 57.0}}, 'whole', 'whole'),
    ({'diverged': {0: 59.0, 1: math.nan, 2: math.nan}, 'whole': {0: 51.0, 1: 50.0, 2: 50.9}}, 'whole', 'whole'),
    ({'worse': {0: 45.0, 1: 45.1, 2: 45.3}}, 'worse', 'control'),
    ({'equal': CONTROL}, 'equal', 'control'),
    ({'diverged': {0: math.nan}}, None, 'control'),
    ({}, None, 'control'),
])  # fmt: skip
def test_a_proved_gain_goes_before_a_larger_one(
    rows: dict[str, dict[int, float]], best: str | None, student: str
) -> None:
    verdict = judge([row(name, scores, scores, ALONE) for name, scores in rows.items()])
    assert (verdict.best and verdict.best.name, verdict.student) == (best, student)
    assert bool(verdict.sentence()) == (best is not None)


def test_val_chooses() -> None:
    """The one that is better on the pictures of the scores was worse on val."""
    val = {'a': {0: 52.0}, 'b': {0: 51.0}}
    methods = [row(name, {0: 60.0 + (name == 'b')}, val[name], ALONE) for name in 'ab']
    assert judge(methods).sentence().startswith('Perhaps. Best of 2 methods on val: a scores 60.00')
    flattered = judge([*methods, row('c', {0: 40.0}, {0: 40.0}, test_is_val=True)])
    assert flattered.sentence().startswith('Perhaps. Best of 2 methods on these pictures, which flatters it: b')
    down = judge([row('a', {0: 60.0}, {0: 49.0}, ALONE)])
    assert down.sentence().startswith('Perhaps.') and down.student == 'control', 'val chooses what is used, not test'
    proved = row('a', {0: 55.0, 1: 55.2, 2: 55.1}, {0: 49.9, 1: 50.0, 2: 50.1}, ALONE)
    lucky = row('b', {0: 50.9, 1: 50.0, 2: 50.4}, {0: 52.0, 1: 52.0, 2: 52.3}, ALONE)
    best = judge([proved, lucky], teacher=math.nan)
    assert best.sentence().startswith('Yes. Best of 2 methods: a scores 55.10') and 'nan' not in best.sentence()
    assert best.student == 'a', 'what is proved on test is not taken back by val'


def test_errors_are_as_rare_as_their_level() -> None:
    """2.5 % of 300: more than 18 have a chance of .0005."""
    for seeds, methods, _, yes, no, gain in simulate(300, (1, 3)):
        assert yes <= 0.06 and no <= 0.06 and (seeds > 1 or yes == no == 0), (seeds, methods)
        assert methods > 1 or abs(gain) < 0.4 / math.sqrt(seeds), 'a mean of 300 rounds'
    tested = {name: Gain({}, 1.0, p=p) for name, p in (('a', 0.01), ('b', 0.04), ('c', 0.03))}
    assert [gain.p for gain in holm(tested).values()] == pytest.approx([0.03, 0.06, 0.06])
