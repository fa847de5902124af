"""A race: within some hours, find the row that trains the student best, and never return less than the student alone.

The candidates are the student alone at several learning rates, then each row of the suite at the best of these rates,
and the student alone with as much time as the slowest of them and the teacher take together, or more if there are many
hours. All are trained to the middle of their schedules, the best go on to the end. If more time pays for the student
alone, the best method gets it too. Then the two best and the student alone get a second seed, that with more time too
unless methods of the usual time beat it by more than chance. Last are further seeds of the winner and of the student
alone. The two best rates go on first: high rates gain most when they decay. Scores are those on val.

Every training is a run of the suite, so it goes on after a stop. ``race.json`` in the suite's folder holds the plan and
what was decided; all else follows from the results. Source of the plan: 150 of our runs, raced again on paper. At half
of the schedule, with a second seed for the best two, such races lost 0 to 0.15 points of the 4 between the candidates;
at a quarter up to 2.7. docs/results.md has races of today.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from mmdistill_dense.apps.suite import plan
from mmdistill_dense.apps.suite.definition import Definition
from mmdistill_dense.apps.suite.plan import CONTROL, TEACHER, Run
from mmdistill_dense.apps.suite.race_plan import (
    LENGTHS,
    LONG,
    RIVALS,
    Record,
    alone_row,
    fits,
    longer_row,
    makespan,
    part_seconds,
    rows_of,
    seconds_so_far,
)

LEAD = 4.0  # points of the teacher over the student alone below which our own runs gained less
SPREAD = 1.4  # points between seeds of one row on val in our own runs
FREEDOM = 4  # pairs of seeds that it counts as
_LATE = 'no time is left for it'


@dataclass(frozen=True)
class Stage:
    """Runs that do not wait for each other's scores."""

    name: str
    runs: tuple[Run, ...]


def stage_of(definition: Definition, record: Record) -> Stage | None:
    """Return the stage that a race is in; ``None`` at its end. ``definition`` has the rows of ``record``."""
    known = {(run.name, run.seed): run for run in plan.runs(definition)}
    seeds, part = record['seeds'], record['rung']

    def stage(name: str, rows: Iterable[str], of: Sequence[int] = seeds[:1], until: float = 1) -> Stage:
        chosen = [known[row, seed] for seed in of for row in rows if row not in record['failed']]
        teacher = [run for run in known.values() if run.kind == TEACHER] if name == 'rates' else []
        return Stage(name, (*teacher, *(replace(run, until=until) for run in chosen)))

    if 'rate' not in record:
        rivals = record.get('rivals')
        return stage('rate', rivals) if rivals else stage('rates', map(alone_row, record['rates']), until=part)
    if 'kept' not in record:
        return stage('methods', candidates(record), until=part)
    if 'finalists' not in record:
        finish = stage('finish', _unended(record, record['kept']))
        if longer := record.get('longer'):  # the others have ended, but where more hours took rows back
            more = stage('longer', [longer['row']], seeds[: longer['seeds']])
            return replace(more, runs=(*finish.runs, *more.runs))
        return finish
    if 'winner' not in record:
        return stage('seeds', record['finalists'], seeds[1 : record['second']])
    if not record['over']:
        return stage(f'more {record["more"]}', _last(record), seeds[record['more'] : record['more'] + 1])
    return None


def candidates(record: Mapping[str, Any]) -> list[str]:
    """Return the rows that are judged beside the student alone at its best rate."""
    methods = () if record.get('poor_teacher') else record['methods']
    return [row for row in ((LONG, *methods) if record['long'] else methods) if row not in record['left_out']]


def val_of(definition: Definition, result: Mapping[str, Any]) -> float:
    """Return the score on val in percent; a score that is no number is the lowest."""
    found = float(result['metrics']['val'].get(definition.metric, 0.0))
    return -math.inf if math.isnan(found) else found * (100 if definition.percent else 1)


def settle(definition: Definition, record: Record, stage: Stage, failed: Mapping[str, str]) -> None:
    """Decide what follows from a stage whose runs have ended, and note it in the record."""
    kind = stage.name.split()[0]
    lost = {run.name: failed.get(run.title, 'it did not end') for run in stage.runs if run.result is None}
    if kind not in ('seeds', 'more'):  # those rows have a seed that ended
        ended = {run.name for run in stage.runs if run.result is not None}
        record['failed'] |= {row: why.splitlines()[0] for row, why in lost.items() if row not in ended}
    for name in (TEACHER, record.get('best')):
        if name in record['failed']:
            raise RuntimeError(f'the race ends, because {name} could not be trained: {record["failed"][name]}')
    _count(definition, record, stage)
    _DECIDE[kind](definition, record)
    if kind == 'more' and lost:
        record['over'] = True  # more hours try it again
    record['rows'] = rows_of(record)


def _count(definition: Definition, record: Record, stage: Stage) -> None:
    """Add what the runs of a stage took since they were counted last, and the prices of those that ended."""
    took = []
    for run in stage.runs:
        place, total = plan.place_of(definition, run), seconds_so_far(run)
        before = record['counted'].get(place, 0.0)
        if total > before:
            took.append(total - before)
            record['counted'][place] = total
            if run.result is not None:
                record['pace'][0] += total - before
                record['pace'][1] += part_seconds(record, run.name, run.until, before > 0)
    record['spent'][stage.name] = record['spent'].get(stage.name, 0.0) + makespan(took, definition.jobs)


def _scores(
    definition: Definition, record: Record, rows: Iterable[str], until: float = 1, first: bool = False
) -> dict[str, dict[int, float]]:
    """The scores on val by row and seed, of the runs that there are, or of the ``first`` seed alone."""
    found: dict[str, dict[int, float]] = {row: {} for row in rows if row not in record['failed']}
    for run in plan.runs(definition):
        result = replace(run, until=until).result if run.name in found else None
        if result is not None and run.seed in record['seeds'][: 1 if first else None]:
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


def _tell(record: Record, sentence: str) -> None:
    """Note a decision as the last one; nothing stands there twice where other hours judge again."""
    record['told'] = [*(one for one in record['told'] if one != sentence), sentence]


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
    _tell(record, f'Learning rate: {_said(means)} on val at {record["rung"]:.0%}.')


def _alone(definition: Definition, record: Record, rows: Iterable[str], until: float = 1) -> dict[str, float]:
    means = _means(_scores(definition, record, rows, until, first=True))
    if not means:
        raise RuntimeError(f'the race ends, because the student alone could not be trained: {record["failed"]}')
    return means


def _rate(definition: Definition, record: Record) -> None:
    means = _alone(definition, record, record['rivals'])
    best = next(iter(means))
    record.update(best=best, rate={alone_row(one): one for one in record['rates']}[best])
    _tell(record, f'Learning rate: {_said(means)} on val at the end. {best} is the best.')
    _judge_teacher(definition, record, means[best])
    _in_time(definition, record)


def _in_time(definition: Definition, record: Record) -> list[str]:
    """Leave out the last candidates for which no time is left; return the others that are yet to be trained."""
    done = _scores(definition, record, candidates(record), record['rung'], first=True)
    rows = [row for row in candidates(record) if row not in {*done, *record['failed']}]
    begun = {run.name for run in plan.runs(definition) if run.state}
    waiting = [row for row in rows if row not in begun]
    while waiting and not fits(record, [part_seconds(record, row, record['rung']) for row in rows]):
        record['left_out'][waiting[-1]] = _LATE
        rows.remove(waiting.pop())
    if late := [row for row, why in record['left_out'].items() if why == _LATE]:
        _tell(record, f'No time is left for {", ".join(late)}: more hours may try more.')
    return rows


def _judge_teacher(definition: Definition, record: Record, alone: float) -> None:
    result = next((run.result for run in plan.runs(definition) if run.kind == TEACHER), None)
    if result is None:
        return
    lead = val_of(definition, result) - alone
    if lead < -_margin(SPREAD, 1):  # beside one that is as good our own runs still gained
        length = _length_instead(record)
        more = f', and the student alone is trained {length:g} times as long' if length != record['long'] else ''
        record.update(poor_teacher=True, long=length)
        _tell(
            record,
            f'The teacher is worse on val than the student alone ({lead:+.2f}): nothing is distilled from it{more}.',
        )
    elif lead < LEAD:
        _tell(
            record,
            f"The teacher's lead on val is {lead:.2f} points. Below {LEAD:g} our own runs gained less: a better "
            'teacher may help more than any method.',
        )


def _length_instead(record: Record) -> float | None:
    """How long the student alone may be trained in the time of the methods, with all its seeds."""
    for length in LENGTHS if CONTROL not in record['fixed'] else ():
        long, alone = (part_seconds({**record, 'long': length}, row) for row in (LONG, record['best']))
        more = makespan([long, alone] * (record['second'] - 1), record['jobs'])
        if length > (record['long'] or 1) and fits(record, [long + more]):
            return length
    return record['long']


def _kept(definition: Definition, record: Record) -> None:
    means = _means(_scores(definition, record, [record['best'], *candidates(record)], record['rung'], first=True))
    kept = list(means)[: record['keep']]
    if record['estimate']['longer'] and LONG in means:  # the best method can only follow it for longer
        kept = list(dict.fromkeys([*kept, LONG]))
    ended = [record['best'], *record.get('ended', ())]  # these stay, and take no more time
    while kept and not fits(record, [part_seconds(record, row, begun=True) for row in kept if row not in ended]):
        kept.pop()
    record['kept'] = list(dict.fromkeys([*kept, *ended]))
    stopped = [row for row in means if row not in record['kept']]
    told = f'At {record["rung"]:.0%}: {_said(means)} on val.'
    _tell(record, told + (f' Stopped: {", ".join(stopped)}.' if stopped else ''))


def _unended(record: Record, rows: Iterable[str]) -> list[str]:
    """Return the rows that the choice of the rate has not trained to their ends."""
    return [row for row in rows if row not in record['rivals']]


def _ended(definition: Definition, record: Record) -> None:
    """Begin the best method for longer, if that pays for the student alone and there is time, else name finalists."""
    name = None if 'longer' in record else _worth_more_time(definition, record)
    record.pop('winner', None)
    if name is None or not _begin_longer(record, name):
        _finalists(definition, record)


def _worth_more_time(definition: Definition, record: Record) -> str | None:
    """The best method, if it is better than the student alone, which gains more by more time than chance gives."""
    scores, alone = _scores(definition, record, record['kept']), record['best']
    methods = [row for row in scores if row in record['methods'] and _lead(scores, row, alone)[0] > 0]
    gain, chance, _ = _lead(scores, LONG, alone) if LONG in scores else (0.0, 0.0, 0)
    if not gain > chance:  # nor if a score is no number
        return None
    return record['winner'] if record.get('winner') in methods else _best(scores, methods)


def _begin_longer(record: Record, name: str) -> bool:
    row = longer_row(record, name)
    if row is None:
        return False
    longer = {'row': row, 'of': name, 'seeds': min(record['jobs'], record['second'])}
    works = [part_seconds({**record, 'longer': longer}, row)] * longer['seeds']
    told = f'{record["long"]:g} times the training pays for the student alone: '
    if not fits(record, works):
        _tell(record, f'{told}more hours would tell whether it does for {name}.')
        return False
    record['longer'] = longer
    _tell(record, f'{told}{name} gets as much.')
    return True


def _finalists(definition: Definition, record: Record) -> None:
    longer = record.get('longer', {}).get('row')
    means = _means(_scores(definition, record, [*record['kept'], *([longer] if longer else [])], first=True))
    judged = [row for row in record.get('scores', {}) if row in means]  # before, in other hours
    finalists = record['finalists'] = list(dict.fromkeys([*list(means)[:2], record['best'], *judged]))
    near = LONG in means and (longer in means or max(means.values()) - means[LONG] <= _margin(SPREAD, 1))
    if near and LONG not in finalists:
        finalists.append(LONG)
    _tell(record, f'At the end, one seed: {_said(means)} on val.')
    lacking = _lacking(definition, record, finalists, record['seeds'][1 : record['second']])
    if len(finalists) > 1 and lacking:
        if fits(record, lacking):
            return
        _tell(record, 'No time is left for a second seed.')
    _judge(definition, record)


def _lacking(definition: Definition, record: Record, rows: Sequence[str], seeds: Iterable[int]) -> list[float]:
    """The prices of the runs that some rows lack to have some seeds."""
    scores = _scores(definition, record, rows)
    return [part_seconds(record, row) for seed in seeds for row in rows if seed not in scores.get(row, {})]


def _judge(definition: Definition, record: Record) -> None:
    """Name the winner: the best method that leads the better student alone by more than chance, else that one."""
    scores = _scores(definition, record, record['finalists'])
    alone = _best(scores, (LONG, record['best']))
    assert alone is not None, 'the student alone has ended'
    leads = {row: _lead(scores, row, alone) for row in scores if row not in (LONG, record['best'])}
    winner = _best(scores, [row for row, (lead, margin, _) in leads.items() if lead > margin]) or alone
    told = winner if winner != alone else max(leads, key=lambda row: leads[row][0], default=alone)
    lead, margin, count = leads.get(told) or (0.0, _margin(noise(scores), 1), len(scores[alone]))
    seen = set(scores[alone]) & set(scores[told])
    means = _means({row: {one: each[one] for one in seen} for row, each in scores.items() if seen <= each.keys()})
    if winner != alone:
        why = f'{winner} wins, by {lead:.2f}; chance gives {margin:.2f}.'
    elif lead > 0:
        why = f'{told} leads {alone} by {lead:.2f}, which chance gives too ({margin:.2f}): the student alone wins.'
    else:
        why = f'{alone} wins.'
    seeds = f'{count} seed{"s" if count > 1 else ""}'
    _tell(record, f'{seeds}: {_said(means)} on val. {why}')
    record.update(winner=winner, alone=alone, lead=lead, margin=margin, scores=scores)
    _begin_more(definition, record)


def _best(scores: Mapping[str, Mapping[int, float]], rows: Iterable[str]) -> str | None:
    """The best of some rows, on the seeds that all have; ``None`` of none."""
    found = {row: scores[row] for row in rows if row in scores}
    return next(iter(of_common_seeds(found)[1] or _means(found)), None)


def _lead(scores: Mapping[str, Mapping[int, float]], row: str, alone: str) -> tuple[float, float, int]:
    """By how much a row leads the student alone, what chance gives, and the number of seeds that both have."""
    count, means = of_common_seeds({one: scores[one] for one in (row, alone)})
    return (means[row] - means[alone], _margin(noise(scores), count), count) if count else (-math.inf, 0.0, 0)


def give_hours(definition: Definition, record: Record, hours: float) -> None:
    """Change the hours of a race: with more it goes on, and tries rows that came too late and seeds that failed."""
    before, record['hours'] = record['hours'], hours
    longer, begun = record.get('longer'), {run.name for run in plan.runs(definition) if run.state}
    waits = longer is not None and 'longer' not in record['spent'] and longer['row'] not in begun
    if waits:
        del record['longer'], record['told'][-1]  # the sentence that said it would be trained
    record['left_out'] = {row: why for row, why in record['left_out'].items() if why != _LATE}
    if 'rate' in record and (rows := _in_time(definition, record)):
        _tell(record, f'In {hours:g} h there is time for {", ".join(rows)}.')
        record['ended'] = [*_scores(definition, record, record.get('kept') or record.get('ended', ()), first=True)]
        for decision in ('kept', 'finalists', 'winner'):
            record.pop(decision, None)
    elif waits or 'finalists' in record:
        record.pop('finalists', None)
        _ended(definition, record)
    elif hours < before:
        _tell(record, f'{hours:g} h in place of {before:g}: the stage under way still ends, then the race decides.')
    record['rows'] = rows_of(record)


def _begin_more(definition: Definition, record: Record) -> None:
    works = [_lacking(definition, record, _last(record), [seed]) for seed in record['seeds']]
    record['more'] = next((place for place, some in enumerate(works) if some), len(works))
    record['over'] = record['more'] == len(works) or not fits(record, works[record['more']])


def _last(record: Mapping[str, Any]) -> list[str]:
    """The rows that get further seeds: the winner, and the student alone that it must beat."""
    alone = record['best'] if record['winner'] == record['alone'] else record['alone']
    return list(dict.fromkeys([record['winner'], alone]))


def _margin(deviation: float, seeds: int) -> float:
    """The difference that chance gives between the means of two rows over so many seeds."""
    return deviation * math.sqrt(2 / seeds)


def noise(scores: Mapping[str, Mapping[int, float]]) -> float:
    """Return the standard deviation between seeds of one row on val, from the seeds at hand and from our own runs.

    A pooled estimate: few seeds say little, so :data:`SPREAD` counts as :data:`FREEDOM` degrees of freedom.
    """
    total, freedom = FREEDOM * SPREAD**2, FREEDOM
    for each in scores.values():
        values = [value for value in each.values() if math.isfinite(value)]
        if len(values) > 1:
            mean = fmean(values)
            total += sum((value - mean) ** 2 for value in values)
            freedom += len(values) - 1
    return math.sqrt(total / freedom)


_DECIDE = {
    'rates': _rivals,
    'rate': _rate,
    'methods': _kept,
    'finish': _ended,
    'longer': _finalists,
    'seeds': _judge,
    'more': _judge,
}


def finished_folders(definition: Definition, record: Record) -> tuple[list[Path], Path | None]:
    """Return the folders of the rows with a finished run, and that of the student alone at its best rate."""
    rows = dict.fromkeys(run.folder.parent for run in plan.runs(definition) if run.result)
    alone = definition.out / 'runs' / record['best'] if 'best' in record else None
    return [folder for folder in rows if folder.parent.name == 'runs'], alone if alone in rows else None


def best_seed(definition: Definition, record: Record) -> int:
    """Return the seed of the winner that is best on val."""
    each = _scores(definition, record, [record['winner']])[record['winner']]
    return max(each, key=lambda seed: each[seed])
