"""How often a comparison says Yes or No where no method has any effect: ``python -m tools.simulate_verdict``.

A run scores 50 with a noise of standard deviation 1.4, of which half the variance is shared by val and test. Methods
are the student alone under another name. A Yes or No should be as rare as its level, 2.5 %.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mmdistill_dense.apps.suite.definition import CONTROL
from mmdistill_dense.apps.suite.verdict import judge_results

NOISE = 1.4
SEEDS, METHODS = (1, 2, 3, 5), (1, 3)
METRIC = 'mIoU'


def draw_results(rng: np.random.Generator, methods: int, seeds: int, has_test: bool) -> dict[str, dict[int, Any]]:
    """Return results of the student alone and of methods without effect, by name and seed."""
    names = [CONTROL, *(f'method_{number}' for number in range(methods))]
    return {name: {seed: _result(rng, has_test) for seed in range(seeds)} for name in names}


def _result(rng: np.random.Generator, has_test: bool) -> dict[str, Any]:
    shared, val, test = rng.normal(0, NOISE / math.sqrt(2), 3)
    scores = {'val': float(50 + shared + val), 'test': float(50 + shared + (test if has_test else val))}
    metrics = {split: {METRIC: score} for split, score in scores.items()}
    return {'score': scores['test'], 'metric': METRIC, 'metrics': metrics, 'test_is_val': not has_test}


def simulate(
    rounds: int, numbers_of_seeds: Sequence[int] = SEEDS, seed: int = 0
) -> Iterator[tuple[int, int, bool, float, float, float]]:
    """Yield seeds, methods, whether there is a test set, the shares of Yes and of No, and the mean gain of the best."""
    for seeds in numbers_of_seeds:
        for methods in METHODS:
            for has_test in (True, False):
                rng, gains, answers = np.random.default_rng(seed), list[float](), list[str]()
                for _ in range(rounds):
                    verdict = judge_results(draw_results(rng, methods, seeds, has_test))
                    assert verdict.gain is not None, 'all runs have a score'
                    gains.append(verdict.gain.mean)
                    answers.append(verdict.sentence().partition('.')[0])
                yes, no = (answers.count(answer) / rounds for answer in ('Yes', 'No'))
                yield seeds, methods, has_test, yes, no, float(np.mean(gains))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--rounds', type=int, default=10_000)
    rounds = parser.parse_args().rounds
    print('| seeds | methods | test set | Yes | No | mean gain of the best |\n| --: | --: | :-- | --: | --: | --: |')
    for seeds, methods, has_test, yes, no, gain in simulate(rounds):
        chosen = 'own' if has_test else 'none: val'
        print(f'| {seeds} | {methods} | {chosen} | {yes:.1%} | {no:.1%} | {gain:+.2f} |', flush=True)


if __name__ == '__main__':
    main()
