"""A race: within some hours, find the row that trains the student best, and never return less than the student alone.

The candidates are the student alone at several learning rates, then each row of the suite at the best of these rates,
and the student alone with as much time as the dearest of them and the teacher take together. All are trained to the
middle of their schedules, the best go on to the end, the two best and the student alone get a second seed, that with
more time too if it is not beaten by more than chance. The two best rates go on first: high rates gain most when they
decay. Scores are those on val. If more time pays for the student alone, the best method gets as long a training too,
in what is left of the hours; then follow further seeds of the winner and of the student alone.

Every training is a run of the suite, so it goes on after a stop. ``race.json`` in the suite's folder holds the plan and
what was decided; all else follows from the results. Source of the plan: races replayed on 150 of our runs
(docs/results.md): at half of the schedule, with a second seed for the best two, they lost 0 to 0.15 points of the 4
between the candidates; at a quarter up to 2.7.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from mmdistill_dense.apps.suite import plan
from mmdistill_dense.apps.suite.definition import RACE, Definition
from mmdistill_dense.apps.suite.plan import RUNG, TEACHER, Run
from mmdistill_dense.apps.suite.race_plan import (
    LONG,
    RIVALS,
    Record,
    alone_row,
    left,
    longer_row,
    makespan,
    place_of,
    rest,
    rows_of,
)
from mmdistill_dense.utils.files import read_json, write_json

LEAD = 4.0  # points of the teacher over the student alone below which our own runs gained little
SPREAD = 1.4  # points between seeds of one row on val in our own runs
FREEDOM = 4  # pairs of seeds that it counts as
SLACK = 1.05  # of an estimate: a stage that would end this little late is still begun


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
    if 'longer' in record and 'longer' not in record['spent']:
        return stage('longer', [record['longer']], record['seeds'][: record['longer_seeds']])
    if 'more' in record and not record.get('over'):
        return stage(f'more {record["more"]}', _last(record), record['seeds'][record['more'] : record['more'] + 1])
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
    own = [run for run in stage.runs if place_of(definition, run) not in record.get('before', ())]
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
            'longer': _judge_longer,
            'more': _judge_again,
        }[kind]
        decide(definition, record)
    record['rows'] = rows_of(record)


def _seconds(run: Run) -> float:
    """The seconds of a run behind its rung, also of one that failed."""
    before = (read_json(run.folder / RUNG) or {}) if run.until == 1 else {}
    whole = 60 * run.result['minutes'] if run.result else run.state.get('seconds', 0.0)
    return float(whole - 60 * before.get('minutes', 0.0))


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


def _seeds(count: int) -> str:
    return f'{count} seed{"s" if count > 1 else ""}'


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
    while len(kept) > 1 and rest(record, 'finish', _unended(record, [*kept, record['best']])) > SLACK * left(record):
        kept.pop()
    stopped = {row: mean for row, mean in means.items() if row not in (*kept, record['best'])}
    record['kept'] = list(dict.fromkeys([*kept, record['best']]))
    told = f'At {record["rung"]:.0%}: {_said(means)} on val.'
    record['told'].append(told + (f' Stopped: {", ".join(stopped)}.' if stopped else ''))


def _unended(record: Record, rows: Iterable[str]) -> list[str]:
    """Return the rows that the choice of the rate has not trained to their ends."""
    return [row for row in rows if row not in record.get('rivals', ())]


def _finalists(definition: Definition, record: Record) -> None:
    means = _means(_scores(definition, record, record['kept'], seeds=1))
    finalists = list(dict.fromkeys([*list(means)[:2], record['best']]))
    record['finalists'] = finalists
    if LONG in means and LONG not in finalists and max(means.values()) - means[LONG] <= _margin(definition, record, 1):
        finalists.append(LONG)
    record['told'].append(f'At the end, one seed: {_said(means)} on val.')
    more = record['second'] - 1
    if more and len(finalists) > 1 and rest(record, 'seeds', finalists, more) > SLACK * left(record):
        record['told'].append('No time is left for a second seed.')
        record['second'] = 1
    if record['second'] == 1 or len(finalists) == 1:
        _winner(definition, record)


def _winner(definition: Definition, record: Record) -> None:
    _judge(definition, record, _scores(definition, record, record['finalists']))
    _use_what_is_left(definition, record)


def _judge(definition: Definition, record: Record, scores: Mapping[str, Mapping[int, float]]) -> None:
    """Name the best row on the seeds that all have: a method only if it leads the student alone by more than chance."""
    count, means = of_common_seeds(scores)
    margin = _margin(definition, record, count)
    first, alone = next(iter(means)), next(row for row in means if row in (LONG, record['best']))
    lead = means[first] - means[alone]
    winner = first if lead > margin else alone
    record.update(winner=winner, lead=lead, margin=margin, scores={row: scores[row] for row in means})
    if winner == alone and first != alone:
        why = f'{first} leads {alone} by {lead:.2f}, which chance gives too ({margin:.2f}): the student alone wins.'
    else:
        why = f'{winner} wins' + (f', by {lead:.2f}; chance gives {margin:.2f}.' if winner != alone else '.')
    record['told'].append(f'{_seeds(count)}: {_said(means)} on val. {why}')


def _judge_again(definition: Definition, record: Record) -> None:
    """Judge a method that won by more seeds: it must lead the student alone by all of them."""
    if record['winner'] not in (LONG, record['best']):
        _judge(definition, record, _scores(definition, record, _last(record)))
    _use_what_is_left(definition, record)


def give_hours(definition: Definition, record: Record, hours: float) -> None:
    """Change the hours of a race: with more of them it begins further seeds, and tries those again that failed."""
    record['hours'] = hours
    if 'more' in record:
        record['spent'].pop(f'more {record["more"]}', None)
        _use_what_is_left(definition, record)
        record['rows'] = rows_of(record)


def _use_what_is_left(definition: Definition, record: Record) -> None:
    """Begin the best method for as long as the student alone if that pays, else one more seed of the winner."""
    if 'longer' not in record and (row := _worth_more_time(definition, record)):
        fits = [n for n in range(record['second'], 0, -1) if rest(record, 'longer', [row], n) <= SLACK * left(record)]
        if fits:
            record.update(longer=row, longer_seeds=fits[0])
            return
    rows = _last(record)
    record['more'] = min(len(each) for each in _scores(definition, record, rows).values())
    late = rest(record, 'more', rows) > SLACK * left(record)
    record['over'] = late or record['more'] >= len(record['seeds'])


def _last(record: Mapping[str, Any]) -> list[str]:
    """The rows that get further seeds: the winner, and the student alone that it must beat."""
    return list(dict.fromkeys([record['winner'], LONG if record['winner'] == record.get('longer') else record['best']]))


def _worth_more_time(definition: Definition, record: Record) -> str | None:
    """The row of the best method with more time, if that brought the student alone more than chance gives."""
    alone = record['best']
    count, means = of_common_seeds(_scores(definition, record, (LONG, alone)))
    if LONG not in means or means[LONG] - means[alone] <= _margin(definition, record, count):
        return None
    methods = _means(_scores(definition, record, [row for row in record['kept'] if row in record['methods']]))
    best = next((row for row, mean in methods.items() if mean > means[alone]), None)
    return best and longer_row(record, best)


def _judge_longer(definition: Definition, record: Record) -> None:
    """Name the method with more time the winner if it leads the last one, and the student alone by more than chance."""
    row, winner = record['longer'], record['winner']
    scores = _scores(definition, record, (row, winner, LONG))
    count, means = of_common_seeds(scores)
    if row in means:
        margin, lead = _margin(definition, record, count), means[row] - means[LONG]
        wins = lead > margin and means[row] > means[winner]
        record['scores'] |= {one: scores[one] for one in means}
        if wins:
            record.update(winner=row, lead=lead, margin=margin)
        why = f'{row} wins, by {lead:.2f}' if wins else f'{winner} stays the winner: the lead over {LONG} is {lead:.2f}'
        record['told'].append(f'{_seeds(count)}: {_said(means)} on val. {why}; chance gives {margin:.2f}.')
    _use_what_is_left(definition, record)


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
