"""``results.py compare``: compare a repeated suite with the published scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from scipy.special import stdtrit

from mmdistill_dense.apps.suite.definition import Definition
from mmdistill_dense.apps.suite.plan import TEACHER
from mmdistill_dense.apps.suite.rows import collect, summarise
from mmdistill_dense.apps.suite.table import scores_as_csv
from tools.docs.scores import FOLDER, Line, Lines, parse_scores, read_scores

CHANCE = 0.05  # of a false alarm in all comparisons together, for repeats that share only the recipe


@dataclass(frozen=True)
class Compared:
    """A run, or the mean of a row (``seed=None``), here and as published."""

    name: str
    seed: int | None
    here: float
    published: float
    verdict: str
    good: bool

    @property
    def title(self) -> str:
        """The name, for messages."""
        what = 'mean' if self.seed is None else f'seed {self.seed}'
        return self.name if self.name == TEACHER else f'{self.name} {what}'


def main(definition: Definition, root: Path) -> int:
    """Print each finished run beside the published one, and return the exit status: 1 if one is outside the spread.

    Raises:
        FileNotFoundError: If nothing is published under this name.
        ValueError: If no finished run is published.
    """
    file = root / FOLDER / f'{definition.path.stem}.csv'
    published = read_scores(file)
    here = parse_scores(scores_as_csv(collect(definition)), definition.out)
    found = list(compare(here, published))
    if not found:
        raise ValueError(f'{definition.out}: no finished run is in {file}; `suite.py run` trains them')
    print(f'{definition.metric} in percent: {definition.out} beside {file}')
    for one in found:
        difference = one.here - one.published
        print(f'{one.title:24s} {one.here:8.3f} {one.published:8.3f} {difference:+8.3f}  {one.verdict}')
    bad = [one.title for one in found if not one.good]
    print(f'{len(found) - len(bad)} of {len(found)} agree' + (f'; not {", ".join(bad)}' if bad else ''))
    return 1 if bad else 0


def compare(here: Lines, published: Lines) -> Iterator[Compared]:
    """Compare the runs that both have, and the means of rows with several of them.

    With the same packages, threads and kind of machine, a repeat is bit-equal. Otherwise rounding errors grow, until
    the repeat is at worst like a run of another seed. So a difference is *outside* if it is larger than usual between
    two seeds: more than ``t * sqrt(2) * s``. Here ``s`` is the standard deviation over the seeds, pooled over the
    published students, and Student's t keeps the chance of a false alarm in all comparisons at :data:`CHANCE`. A mean
    of k runs has ``1 / sqrt(k)`` of this bound, and finds small differences that all runs share. If no row has two
    seeds, only equal scores agree.
    """
    both = {name: sorted(set(seeds) & set(published.get(name, {}))) for name, seeds in here.items()}
    rows = [name for name, seeds in both.items() if len(seeds) > 1]
    limit = bound(published, max(1, sum(map(len, both.values())) + len(rows)))
    for name, seeds in both.items():
        for seed in seeds:
            yield _run(name, seed, here[name][seed], published[name][seed], limit)
        if name in rows:
            yield _mean(name, {seed: (here[name][seed].score, published[name][seed].score) for seed in seeds}, limit)


def bound(published: Lines, comparisons: int) -> float:
    """Return the largest usual difference between two runs of one config; 0 if it is unknown."""
    squares, freedom = 0.0, 0
    for name, lines in published.items():
        scores = [line.score for line in lines.values() if math.isfinite(line.score)]
        found = summarise(scores) if name != TEACHER else None
        if found is not None and found.sd is not None:
            squares += (found.n - 1) * found.sd**2
            freedom += found.n - 1
    if not freedom:
        return 0.0
    return float(stdtrit(freedom, 1 - CHANCE / (2 * comparisons))) * math.sqrt(2 * squares / freedom)


def _run(name: str, seed: int, here: Line, published: Line, limit: float) -> Compared:
    if here.config_hash != published.config_hash:
        verdict = f'ANOTHER CONFIG: {here.config_hash}, published {published.config_hash}'
        return Compared(name, seed, here.score, published.score, verdict, False)
    if here.metrics == published.metrics and _equal(here.score, published.score):
        return Compared(name, seed, here.score, published.score, 'equal in every digit of every metric', True)
    return Compared(name, seed, here.score, published.score, *_judged(here.score, published.score, limit))


def _mean(name: str, scores: Mapping[int, tuple[float, float]], limit: float) -> Compared:
    here, published = (math.fsum(one) / len(scores) for one in zip(*scores.values(), strict=True))
    return Compared(name, None, here, published, *_judged(here, published, limit / math.sqrt(len(scores))))


def _judged(here: float, published: float, limit: float) -> tuple[str, bool]:
    if _equal(here, published):
        return 'equal', True
    if abs(here - published) <= limit:  # false for nan
        return f'within the spread of ± {limit:.2f}', True
    return f'OUTSIDE the spread of ± {limit:.2f}', False


def _equal(here: float, published: float) -> bool:
    return here == published or (math.isnan(here) and math.isnan(published))
