"""A race: within some hours, find the row that trains the student best, and never return less than the student alone.

The candidates are the student alone at several learning rates, then each row of the suite at the best of these rates,
and the student alone with as much time as the dearest of them and the teacher take together. All are trained to the
middle of their schedules, the best go on to the end, the two best and the student alone get a second seed, that with
more time too if it is not beaten by more than chance. The two best rates go on first: high rates gain most when they
decay. Scores are those on val. The rest of the time goes to further seeds of the winner and of the student alone.

Every training is a run of the suite, so it goes on after a stop. ``race.json`` in the suite's folder holds the plan and
what was decided; all else follows from the results. Source of the plan: races replayed on 150 of our runs
(docs/results.md): at half of the schedule, with a second seed for the best two, they lost 0 to 0.15 points of the 4
between the candidates; at a quarter up to 2.7.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from mmdistill_dense.apps.suite import plan
from mmdistill_dense.apps.suite.definition import RACE, Definition, Race
from mmdistill_dense.apps.suite.plan import CONTROL, RUNG, TEACHER, Run
from mmdistill_dense.utils.files import read_json, write_json

LONG = 'alone_long'
# By mean gain in docs/results.md, after those of the definition.
METHODS = {'seg': ('pcd', 'maskd', 'fitnet', 'cwd', 'kd'), 'det': ('frs', 'crosskd', 'fgd', 'pkd', 'fitnet', 'pcd')}
LEAD = 4.0  # points of the teacher over the student alone below which our own runs gained little
SPREAD = 1.4  # points between seeds of one row on val in our own runs
FREEDOM = 4  # pairs of seeds that it counts as
MOST_SEEDS = 5
RIVALS = 2  # rates that go on to the end
MOST_LENGTH = 6.0  # of the student alone with more time: longer schedules gained nothing in our own runs
SLACK = 1.05  # of an estimate: a stage that would end this little late is still begun
_PROCESS = 8.0  # seconds in which a process imports what it needs

Record = dict[str, Any]


@dataclass(frozen=True)
class Price:
    """Seconds on the wall, for a config at its own length."""

    start: float  # until the first step, and what distillers learn before it
    step: float
    steps: int
    evaluation: float  # of the pictures of val
    evaluations: int
    test: float  # of the pictures of test, 0 where they are those of val

    def seconds(self, share: float = 1, length: float = 1, begun: bool = False) -> float:
        """Return the seconds of a part of a training that is ``length`` times as long, ``begun`` without its beginning.

        It counts as many evaluations for any length, since the interval is scaled too, and one of the checkpoint that
        the part ends with.
        """
        part = share * (length * self.steps * self.step + self.evaluations * self.evaluation)
        ending = self.evaluation + (0 if share < 1 and not begun else self.test)
        return _PROCESS + part + ending + (0 if begun else self.start)


@dataclass(frozen=True)
class Size:
    """How large a race is: what it has less of, the less time there is."""

    rates: tuple[float, ...]
    methods: tuple[str, ...]
    long: float | None  # the length of the student alone with more time
    seeds: int


def alone_row(rate: float) -> str:
    """Return the name of the row of the student alone at a learning rate."""
    return CONTROL if rate == 1 else f'alone_x{rate:g}'


def rows_of(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the rows of a race as in a definition; the methods have the control's rate until the best is known."""
    rate = record.get('rate') or 1
    rows: dict[str, dict[str, Any]] = {alone_row(one): {'rate': one} for one in record['rates'] if one != 1}
    if record['long']:
        rows[LONG] = {'length': record['long'], 'rate': rate}
    for name, row in record['methods'].items():
        rows[name] = {**(row or {}), 'rate': rate * (row or {}).get('rate', 1)}
    return rows


def makespan(seconds: Iterable[float], jobs: int) -> float:
    """Return how long works take side by side, each begun when one of ``jobs`` places is free."""
    ends = [0.0] * jobs
    for one in seconds:
        ends[ends.index(min(ends))] += one
    return max(ends)


def estimate(race: Race, size: Size, prices: Mapping[str, Price], jobs: int, part: float) -> dict[str, float]:
    """Return the seconds of each stage with its rung at a ``part``, if the dearest candidates are kept."""
    alone, rest = prices[CONTROL], 1 - part
    others = sorted(((prices[name], 1.0) for name in size.methods), key=lambda one: -one[0].seconds())
    others = [(alone, size.long), *others] if size.long else others
    first = [prices[TEACHER].seconds()] if TEACHER in prices else []
    finalists = [*others[: 3 if size.long else 2], (alone, 1.0)] * (size.seeds - 1)
    kept = others[: race.keep]
    return {
        'rates': makespan([*first, *[alone.seconds(part)] * len(size.rates)], jobs),
        'rate': makespan([alone.seconds(rest, begun=True)] * len(size.rates[:RIVALS]), jobs),
        'methods': makespan([one.seconds(part, length) for one, length in others], jobs),
        'finish': makespan([one.seconds(rest, length, begun=True) for one, length in kept], jobs),
        'seeds': makespan([one.seconds(1, length) for one, length in finalists], jobs),
    }


def sizes(race: Race, methods: Sequence[str], prices: Mapping[str, Price], longer: bool = True) -> Iterator[Size]:
    """Yield the sizes of a race from the largest: fewer methods, no longer training, fewer rates, no second seed."""
    for count in range(len(methods), 1, -1):
        long = _long(prices, methods[:count]) if longer else None
        yield Size(race.rates, tuple(methods[:count]), long, race.seeds)
    for count in (2, 1):
        yield Size(race.rates, tuple(methods[:count]), None, race.seeds)
    yield Size(race.rates[:2], tuple(methods[:1]), None, race.seeds)
    yield Size(race.rates[:2], tuple(methods[:1]), None, 1)
    yield Size(race.rates[:1], tuple(methods[:1]), None, 1)


def _long(prices: Mapping[str, Price], methods: Sequence[str]) -> float:
    """The length at which the student alone takes as long as the dearest method and the teacher together."""
    teacher = prices[TEACHER].seconds() if TEACHER in prices else 0.0
    dearest = max(prices[name].seconds() for name in methods)
    return min(max(round((dearest + teacher) / prices[CONTROL].seconds(), 1), 1.5), MOST_LENGTH)


def planned(
    definition: Definition,
    race: Race,
    rows: Mapping[str, Any],
    prices: Mapping[str, Price],
    longer: bool = True,
    part: float | None = None,
) -> Record:
    """Return the record of the largest race that fits into its hours, with a ``longer`` training if that can be made.

    ``part`` is the share of the schedule at which the recipe evaluates next after the rung, by default the rung itself.

    Raises:
        ValueError: If not even the smallest does; it names the hours of that one.
    """
    part = race.rung if part is None else part
    methods, needed = [name for name in rows if name in prices], 0.0
    for size in sizes(race, methods, prices, longer):
        stages = estimate(race, size, prices, definition.jobs, part)
        needed = sum(stages.values())
        if needed <= 3600 * race.hours:
            seeds = [*definition.seeds, *(one for one in range(100) if one not in definition.seeds)][:MOST_SEEDS]
            seeds.sort(key=_whole_seeds(definition).__contains__)  # the first one is judged at the rung
            record: Record = {
                'hours': race.hours,
                'rung': race.rung,
                'part': part,
                'keep': race.keep,
                'rates': list(size.rates),
                'methods': {name: rows[name] for name in size.methods},
                'long': size.long,
                'seeds': seeds,
                'second': size.seeds,
                'jobs': definition.jobs,
                'estimate': stages,
                'prices': {name: vars(price) for name, price in prices.items()},
                'left_out': dict.fromkeys(methods[len(size.methods) :], 'no time for it'),
                'failed': {},
                'before': sorted({_place(definition, run) for run in plan.runs(definition) if run.result}),
                'spent': {},
                'told': [],
            }
            record['rows'] = rows_of(record)
            return record
    raise ValueError(
        f'{race.hours:g} hours are too few for a race: the teacher, the student alone and one method take '
        f'{math.ceil(needed / 360) / 10:g}. Give that many, or shorten the schedule of {definition.control.name}.'
    )


def _whole_seeds(definition: Definition) -> set[int]:
    """The seeds of runs that were trained whole before the race, and so have no score at its rung."""
    done = (run for run in plan.runs(definition) if run.kind == 'run' and run.result is not None)
    return {run.seed for run in done if not (run.folder / RUNG).is_file()}


def read(definition: Definition) -> Record | None:
    """Return the record of a race; ``None`` before it is planned."""
    return read_json(definition.out / RACE)


def write(definition: Definition, record: Record) -> None:
    """Keep the record."""
    write_json(definition.out / RACE, record)


@dataclass(frozen=True)
class Stage:
    """Runs that do not wait for each other's scores."""

    name: str
    runs: tuple[Run, ...]


def stage_of(definition: Definition, record: Record) -> Stage | None:
    """Return the stage that a race is in; ``None`` at its end. ``definition`` has the rows of ``record``."""
    known = {(run.name, run.seed): run for run in plan.runs(definition)}
    first, part = record['seeds'][0], record['rung']

    def stage(name: str, rows: Iterable[str], seeds: Sequence[int] = (first,), until: float = 1) -> Stage:
        chosen = [known[row, seed] for seed in seeds for row in rows if row not in record['failed']]
        teacher = [run for run in known.values() if run.kind == TEACHER] if name == 'rates' else []
        return Stage(name, (*teacher, *(replace(run, until=until) for run in chosen)))

    if 'rate' not in record:
        rivals = record.get('rivals')
        return stage('rate', rivals) if rivals else stage('rates', map(alone_row, record['rates']), until=part)
    if 'kept' not in record:
        return stage('methods', candidates(record), until=part)
    if 'finalists' not in record:
        return stage('finish', _unended(record, record['kept']))
    if 'winner' not in record:
        return stage('seeds', record['finalists'], record['seeds'][1 : record['second']])
    if 'more' in record and not record.get('over'):
        rows = dict.fromkeys((record['winner'], record['best']))
        return stage(f'more {record["more"]}', rows, record['seeds'][record['more'] : record['more'] + 1])
    return None


def candidates(record: Mapping[str, Any]) -> list[str]:
    """Return the rows that are judged beside the student alone at its best rate."""
    found = [LONG] if record['long'] else []
    return [*found, *(name for name in record['methods'] if not record.get('poor_teacher'))]


def val_of(definition: Definition, result: Mapping[str, Any]) -> float:
    """Return the score on val in percent; a score that is no number is the lowest."""
    found = float(result['metrics']['val'].get(definition.metric, 0.0))
    return -math.inf if math.isnan(found) else found * (100 if definition.percent else 1)


def settle(definition: Definition, record: Record, stage: Stage, failed: Mapping[str, str]) -> None:
    """Decide what follows from a stage whose runs have ended, and note it in the record."""
    kind, lost = stage.name.split()[0], [run for run in stage.runs if run.result is None]
    if kind not in ('seeds', 'more'):  # those rows have a seed that ended
        for run in lost:
            record['failed'][run.name] = failed.get(run.title, 'it did not end').splitlines()[0]
    for name in (TEACHER, record.get('best')):
        if name in record['failed']:
            raise RuntimeError(f'the race ends, because {name} could not be trained: {record["failed"][name]}')
    own = [run for run in stage.runs if _place(definition, run) not in record.get('before', ())]
    record['spent'][stage.name] = makespan([_seconds(run) for run in own], definition.jobs)
    if kind == 'more' and lost:
        record['over'] = True
    else:
        decide = {
            'rates': _rivals,
            'rate': _rate,
            'methods': _kept,
            'finish': _finalists,
            'seeds': _winner,
            'more': _judge_again,
        }[kind]
        decide(definition, record)
    record['rows'] = rows_of(record)


def _place(definition: Definition, run: Run) -> str:
    return run.folder.relative_to(definition.out).as_posix()


def _seconds(run: Run) -> float:
    """The seconds of a run behind its rung, also of one that failed."""
    before = (read_json(run.folder / RUNG) or {}) if run.until == 1 else {}
    whole = 60 * run.result['minutes'] if run.result else run.state.get('seconds', 0.0)
    return float(whole - 60 * before.get('minutes', 0.0))


def left(record: Mapping[str, Any]) -> float:
    """Return the seconds that are left."""
    return float(3600 * record['hours'] - sum(record['spent'].values()))


def slower(record: Mapping[str, Any]) -> float:
    """Return by what factor the finished stages took longer than estimated."""
    done = [name for name in record['spent'] if record['estimate'].get(name)]
    expected = sum(record['estimate'][name] for name in done)
    return sum(record['spent'][name] for name in done) / expected if expected else 1.0


def _scores(
    definition: Definition, record: Record, rows: Iterable[str], until: float = 1, seeds: int | None = None
) -> dict[str, dict[int, float]]:
    """The scores on val by row and seed, of the runs that there are, or of those with the first so many seeds."""
    found: dict[str, dict[int, float]] = {row: {} for row in rows if row not in record['failed']}
    for run in plan.runs(definition):
        result = replace(run, until=until).result if run.name in found else None
        if result is not None and run.seed in record['seeds'][:seeds]:
            found[run.name][run.seed] = val_of(definition, result)
    return {row: scores for row, scores in found.items() if scores}


def _means(scores: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """The mean of each row, the best first."""
    means = {row: fmean(each.values()) for row, each in scores.items()}
    return dict(sorted(means.items(), key=lambda one: -one[1]))


def of_common_seeds(scores: Mapping[str, Mapping[Any, float]]) -> tuple[int, dict[str, float]]:
    """Return how many seeds all rows have, and the mean of each row over these, the best first."""
    common = set.intersection(*map(set, scores.values())) if scores else set()
    return len(common), _means({row: {one: each[one] for one in common} for row, each in scores.items() if common})


def _said(means: Mapping[str, float]) -> str:
    return ', '.join(f'{row} {mean:.2f}' for row, mean in means.items())


def _rivals(definition: Definition, record: Record) -> None:
    means = _alone(definition, record, map(alone_row, record['rates']), record['rung'])
    if 0 < max(means.values()) <= 1 and not definition.percent:  # the margins of this module are in points
        raise ValueError(
            f'{definition.path}: metric: no {definition.metric} of the first candidates is above 1 '
            f'({_said(means)}). A race compares scores in percent: set percent: true.'
        )
    record['rivals'] = list(means)[:RIVALS]
    record['told'].append(f'Learning rate: {_said(means)} on val at {record["rung"]:.0%}.')


def _alone(definition: Definition, record: Record, rows: Iterable[str], until: float = 1) -> dict[str, float]:
    means = _means(_scores(definition, record, rows, until, seeds=1))
    if not means:
        raise RuntimeError(f'the race ends, because the student alone could not be trained: {record["failed"]}')
    return means


def _rate(definition: Definition, record: Record) -> None:
    means = _alone(definition, record, record['rivals'])
    best = next(iter(means))
    record.update(best=best, rate={alone_row(one): one for one in record['rates']}[best])
    record['told'].append(f'Learning rate: {_said(means)} on val at the end. {best} is the best.')
    result = next((run.result for run in plan.runs(definition) if run.kind == TEACHER), None)
    if result is None:
        return
    lead = val_of(definition, result) - means[best]
    if lead <= 0:
        record['poor_teacher'] = True
        record['told'].append(
            f'The teacher is no better on val than the student alone ({lead:+.2f}): nothing is distilled from it.'
        )
    elif lead < LEAD:
        record['told'].append(
            f'The teacher leads by {lead:.2f} points on val. Below {LEAD:g} our own runs gained little: a '
            'better teacher may help more than any method.'
        )


def _kept(definition: Definition, record: Record) -> None:
    means = _means(_scores(definition, record, [record['best'], *candidates(record)], record['rung'], seeds=1))
    kept = list(means)[: record['keep']]
    while len(kept) > 1 and _rest(record, 'finish', _unended(record, [*kept, record['best']])) > SLACK * left(record):
        kept.pop()
    stopped = {row: mean for row, mean in means.items() if row not in (*kept, record['best'])}
    record['kept'] = list(dict.fromkeys([*kept, record['best']]))
    told = f'At {record["rung"]:.0%}: {_said(means)} on val.'
    record['told'].append(told + (f' Stopped: {", ".join(stopped)}.' if stopped else ''))


def _unended(record: Record, rows: Iterable[str]) -> list[str]:
    """Return the rows that the choice of the rate has not trained to their ends."""
    return [row for row in rows if row not in record.get('rivals', ())]


def _rest(record: Record, stage: str, rows: Iterable[str]) -> float:
    """The seconds that rows take in a stage, at the speed seen so far."""
    prices = {name: Price(**price) for name, price in record['prices'].items()}
    begun = stage == 'finish'
    each = [
        prices.get(row, prices[CONTROL]).seconds(
            1 - (record.get('part') or record['rung']) if begun else 1, record['long'] if row == LONG else 1, begun
        )
        for row in dict.fromkeys(rows)
    ]
    return slower(record) * makespan(each, record['jobs'])


def _finalists(definition: Definition, record: Record) -> None:
    means = _means(_scores(definition, record, record['kept'], seeds=1))
    finalists = list(dict.fromkeys([*list(means)[:2], record['best']]))
    record['finalists'] = finalists
    if LONG in means and LONG not in finalists and max(means.values()) - means[LONG] <= _margin(definition, record, 1):
        finalists.append(LONG)
    record['told'].append(f'At the end, one seed: {_said(means)} on val.')
    more = record['second'] - 1
    if more and len(finalists) > 1 and more * _rest(record, 'seeds', finalists) > SLACK * left(record):
        record['told'].append('No time is left for a second seed.')
        record['second'] = 1
    if record['second'] == 1 or len(finalists) == 1:
        _winner(definition, record)


def _winner(definition: Definition, record: Record) -> None:
    _judge(definition, record, _scores(definition, record, record['finalists']))
    _more(definition, record)


def _judge(definition: Definition, record: Record, scores: Mapping[str, Mapping[int, float]]) -> None:
    """Name the best row on the seeds that all have: a method only if it leads the student alone by more than chance."""
    count, means = of_common_seeds(scores)
    margin = _margin(definition, record, count)
    first, alone = next(iter(means)), next(row for row in means if row in (LONG, record['best']))
    lead = means[first] - means[alone]
    winner = first if lead > margin else alone
    record.update(winner=winner, lead=lead, margin=margin, scores={row: scores[row] for row in means})
    seeds = f'{count} seed{"s" if count > 1 else ""}'
    if winner == alone and first != alone:
        why = f'{first} leads {alone} by {lead:.2f}, which chance gives too ({margin:.2f}): the student alone wins.'
    else:
        why = f'{winner} wins' + (f', by {lead:.2f}; chance gives {margin:.2f}.' if winner != alone else '.')
    record['told'].append(f'{seeds}: {_said(means)} on val. {why}')


def _judge_again(definition: Definition, record: Record) -> None:
    """Judge a method that won by more seeds: it must lead the student alone by all of them."""
    if record['winner'] not in (LONG, record['best']):
        _judge(definition, record, _scores(definition, record, (record['winner'], record['best'])))
    _more(definition, record)


def give_hours(definition: Definition, record: Record, hours: float) -> None:
    """Change the hours of a race: with more of them it begins further seeds, and tries those again that failed."""
    record['hours'] = hours
    if 'more' in record:
        record['spent'].pop(f'more {record["more"]}', None)
        _more(definition, record)


def _more(definition: Definition, record: Record) -> None:
    """Begin one more seed of the winner if there is time."""
    rows = dict.fromkeys((record['winner'], record['best']))
    done = _scores(definition, record, rows)
    record['more'] = min(len(each) for each in done.values())
    late = _rest(record, 'more', rows) > SLACK * left(record)
    record['over'] = late or record['more'] >= len(record['seeds'])


def _margin(definition: Definition, record: Record, seeds: int) -> float:
    """The difference that chance gives between the means of two rows over so many seeds."""
    return noise(definition, record) * math.sqrt(2 / seeds)


def noise(definition: Definition, record: Record) -> float:
    """Return the standard deviation between seeds of one row on val, from the seeds at hand and from our own runs.

    A pooled estimate: few seeds say little, so :data:`SPREAD` counts as :data:`FREEDOM` degrees of freedom.
    """
    total, freedom = FREEDOM * SPREAD**2, FREEDOM
    for each in _scores(definition, record, record['finalists']).values():
        values = [value for value in each.values() if math.isfinite(value)]
        if len(values) > 1:
            mean = fmean(values)
            total += sum((value - mean) ** 2 for value in values)
            freedom += len(values) - 1
    return math.sqrt(total / freedom)


def finished_folders(definition: Definition, record: Record) -> tuple[list[Path], Path | None]:
    """Return the folders of the rows with a finished run, and that of the student alone at its best rate."""
    rows = dict.fromkeys(run.folder.parent for run in plan.runs(definition) if run.result)
    alone = definition.out / 'runs' / record['best'] if 'best' in record else None
    return [folder for folder in rows if folder.parent.name == 'runs'], alone if alone in rows else None


def best_seed(definition: Definition, record: Record) -> int:
    """Return the seed of the winner that is best on val."""
    each = _scores(definition, record, [record['winner']])[record['winner']]
    return max(each, key=lambda seed: each[seed])


def lines(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the plan in words, and what was decided so far."""
    rates = ', '.join(f'{one:g}' for one in record['rates'])
    yield f'race     {record["hours"]:g} h, scores on val; the student alone at {rates} times its learning rate'
    if record['methods']:
        yield f'         at the best of these: {", ".join(record["methods"])}'
    if record['long']:
        yield f'         and the student alone, {record["long"]:g} times as long'
    last = f'the best two with {record["second"]} seeds' if record['second'] > 1 else 'one seed'
    yield f'         to {record["rung"]:.0%} of the schedule; the best {record["keep"]} to its end; {last}'
    hours = ', '.join(f'{name} {seconds / 60:.0f} min' for name, seconds in record['estimate'].items() if seconds)
    yield f'         expected: {hours}; the rest for further seeds of the winner'
    for name, why in {**record['left_out'], **record['failed']}.items():
        yield f'         without {name}: {why}'
    for sentence in record['told']:
        yield f'race     {sentence}'
