"""The plan of a race: the price of each training, the largest race that fits into the hours, the time that is left."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmdistill_dense.apps.recipes import compose
from mmdistill_dense.apps.suite.definition import Definition, Race
from mmdistill_dense.apps.suite.plan import CONTROL, RUNG, TEACHER, Run
from mmdistill_dense.utils.files import read_json

LONG = 'alone_long'
# A race tries the rows of its definition first, then these: the first ones gained most in docs/results.md.
METHODS = {'seg': ('pcd', 'maskd', 'fitnet', 'cwd', 'kd'), 'det': ('frs', 'crosskd', 'fgd', 'pkd', 'fitnet', 'pcd')}
MOST_SEEDS = 5
RIVALS = 2  # rates that go on to the end
LENGTHS = (6.0, 4.0, 3.0, 2.0)  # of more time, where the hours hold it; longer ones gained nothing in our own runs
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
    """A size of a race. The less time there is, the smaller these are."""

    rates: tuple[float, ...]
    methods: tuple[str, ...]
    long: float | None  # the length of the student alone with more time
    seeds: int
    both: bool = False  # whether there is time for the best method for as long, too


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
    if longer := record.get('longer'):
        row = rows[longer['of']]
        own = {'method': longer['of']} if longer['of'] in compose.methods() and 'config' not in row else {}
        rows[longer['row']] = {**own, **row, 'length': record['long'] * row.get('length', 1)}
    return rows


def longer_row(record: Mapping[str, Any], name: str) -> str | None:
    """Return the name of a method's row with as much more training as :data:`LONG`; ``None`` if it cannot have one."""
    row = f'{name}_long'
    if name in record['fixed'] or row in (LONG, *record['methods'], *record['left_out']):
        return None
    config = (record['methods'][name] or {}).get('config', '.py')  # a bare name is looked up by the name of its row
    return row if any(mark in config for mark in ('/', ':', '.py')) else None


def base_of(record: Mapping[str, Any], row: str) -> tuple[str, float]:
    """Return whose steps a row takes, and how many times as many."""
    longer = record.get('longer')
    if longer and row == longer['row']:
        return longer['of'], record['long']
    return row, record['long'] if row == LONG else 1


def makespan(seconds: Iterable[float], jobs: int) -> float:
    """Return how long works take side by side, each begun when one of ``jobs`` places is free."""
    ends = [0.0] * jobs
    for one in seconds:
        ends[ends.index(min(ends))] += one
    return max(ends)


def estimate(race: Race, size: Size, prices: Mapping[str, Price], jobs: int, part: float) -> dict[str, float]:
    """Return the seconds of each stage with its rung at a ``part``, if the slowest candidates are kept."""
    alone, rest = prices[CONTROL], 1 - part
    others = sorted(((prices[name], 1.0) for name in size.methods), key=lambda one: -one[0].seconds())
    others = [(alone, size.long), *others] if size.long else others
    first = [prices[TEACHER].seconds()] if TEACHER in prices else []
    both = [(prices[name], size.long) for name in size.methods] if size.long and size.both else []
    longest = [max(both, key=lambda one: one[0].seconds(1, one[1]))] if both else []
    finalists = [*[*longest, *others][: 3 if size.long else 2], (alone, 1.0)] * (size.seeds - 1)
    kept = others[: race.keep]
    return {
        'rates': makespan([*first, *[alone.seconds(part)] * len(size.rates)], jobs),
        'rate': makespan([alone.seconds(rest, begun=True)] * len(size.rates[:RIVALS]), jobs),
        'methods': makespan([one.seconds(part, length) for one, length in others], jobs),
        'finish': makespan([one.seconds(rest, length, begun=True) for one, length in kept], jobs),
        'longer': makespan([one.seconds(1, length) for one, length in longest], jobs),
        'seeds': makespan([one.seconds(1, length) for one, length in finalists], jobs),
    }


def sizes(
    race: Race, methods: Sequence[str], prices: Mapping[str, Price], fixed: Collection[str] = ()
) -> Iterator[Size]:
    """Yield the sizes of a race from the largest: shorter or no longer training, fewer methods, rates and seeds."""
    longer = CONTROL not in fixed
    for length in LENGTHS if longer and {*methods} - {*fixed} else ():
        if length > _long(prices, methods):
            yield Size(race.rates, tuple(methods), length, race.seeds, both=True)
    for count in (1,) if len(methods) == 1 else range(len(methods), 1, -1):
        long = _long(prices, methods[:count]) if longer else None
        yield Size(race.rates, tuple(methods[:count]), long, race.seeds)
    for count in (2, 1):
        yield Size(race.rates, tuple(methods[:count]), None, race.seeds)
    yield Size(race.rates[:2], tuple(methods[:1]), None, race.seeds)
    yield Size(race.rates[:2], tuple(methods[:1]), None, 1)
    yield Size(race.rates[:1], tuple(methods[:1]), None, 1)


def _long(prices: Mapping[str, Price], methods: Sequence[str]) -> float:
    """The length at which the student alone takes as long as the slowest method and the teacher together."""
    teacher = prices[TEACHER].seconds() if TEACHER in prices else 0.0
    slowest = max(prices[name].seconds() for name in methods)
    return min(max(round((slowest + teacher) / prices[CONTROL].seconds(), 1), 1.5), LENGTHS[0])


def planned(
    definition: Definition,
    race: Race,
    rows: Mapping[str, Any],
    prices: Mapping[str, Price],
    fixed: Mapping[str, str] | None = None,
    part: float | None = None,
) -> Record:
    """Return the record of the largest race that fits into its hours.

    ``fixed`` says why rows cannot be longer. ``part`` is the share of the schedule at which the recipe evaluates next
    after the rung, by default the rung itself.

    Raises:
        ValueError: If not even the smallest does; it names the hours of that one.
    """
    part, fixed = race.rung if part is None else part, fixed or {}
    methods, needed = [name for name in rows if name in prices], 0.0
    for size in sizes(race, methods, prices, fixed):
        stages = estimate(race, size, prices, definition.jobs, part)
        needed = sum(stages.values())
        if needed <= 3600 * race.hours:
            whole = _whole_seeds(definition, (*map(alone_row, race.rates), LONG, *rows))
            seeds = [one for one in dict.fromkeys([*definition.seeds, *range(100)]) if one not in whole][:MOST_SEEDS]
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
                'left_out': {
                    **({LONG: fixed[CONTROL]} if CONTROL in fixed else {}),
                    **dict.fromkeys(methods[len(size.methods) :], 'the plan has no time for it'),
                },
                'fixed': sorted(fixed),
                'failed': {},
                'counted': _counted(definition),
                'spent': {},
                'pace': [0.0, 0.0],  # the seconds of what has ended, and their prices
                'told': [],
            }
            record['rows'] = rows_of(record)
            return record
    teacher = 'the teacher, ' if TEACHER in prices else ''
    raise ValueError(
        f'{race.hours:g} hours are too few for a race: {teacher}the student alone and one method take '
        f'{math.ceil(needed / 360) / 10:g} hours. Give that many, or shorten the schedule of {definition.control.name}.'
    )


def _whole_seeds(definition: Definition, rows: Iterable[str]) -> set[int]:
    """The seeds of rows that were trained whole before the race: no score at its rung, perhaps of another rate."""
    files = (file for row in rows for file in definition.out.glob(f'runs/{row}/seed*/result.json'))
    return {int(file.parent.name.removeprefix('seed')) for file in files if not (file.parent / RUNG).is_file()}


def _counted(definition: Definition) -> dict[str, float]:
    """The seconds of all runs that ended before the race, also of those to a rung, by their places."""
    found: dict[str, float] = {}
    for name in (RUNG, 'result.json'):  # the minutes of a whole run hold those to its rung
        for file in (*definition.out.glob(f'runs/*/seed*/{name}'), *definition.out.glob(f'{TEACHER}/{name}')):
            result = read_json(file)
            found[file.parent.relative_to(definition.out).as_posix()] = 60 * result['minutes'] if result else 0.0
    return found


def seconds_so_far(run: Run) -> float:
    """Return the seconds of a run to its end, or of one that failed until then."""
    result = run.result
    return float(60 * result['minutes'] if result else run.state.get('seconds', 0.0))


def part_seconds(record: Mapping[str, Any], row: str, until: float = 1, begun: bool = False) -> float:
    """Return the price of a row to the rung (``until`` below 1), from there to its end (``begun``), or whole."""
    name, length = base_of(record, row)
    prices = record['prices']
    share = record['part'] if until < 1 else 1 - record['part'] if begun else 1
    return Price(**prices.get(name, prices[CONTROL])).seconds(share, length, begun)


def left(record: Mapping[str, Any]) -> float:
    """Return the seconds that are left."""
    return float(3600 * record['hours'] - sum(record['spent'].values()))


def slower(record: Mapping[str, Any]) -> float:
    """Return by what factor the runs that ended took longer than their prices."""
    took, priced = record['pace']
    return took / priced if priced else 1.0


def fits(record: Mapping[str, Any], works: Sequence[float]) -> bool:
    """Tell whether there is time for works of these prices, at the speed seen so far."""
    return slower(record) * makespan(works, record['jobs']) <= SLACK * left(record)


def lines(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the plan in words, and what was decided so far."""
    rates = ', '.join(f'{one:g}' for one in record['rates'])
    yield f'race     {record["hours"]:g} h, scores on val; the student alone at {rates} times its learning rate'
    if record['methods']:
        yield f'         at the best of these: {", ".join(record["methods"])}'
    if record['long']:
        once = '' if record['estimate']['longer'] else ' and there is time'
        also = '' if record.get('poor_teacher') else f'; if that pays{once}, the best method too, before second seeds'
        yield f'         and the student alone, {record["long"]:g} times as long{also}'
    last = f'the best two with {record["second"]} seeds' if record['second'] > 1 else 'one seed'
    yield f'         to {record["rung"]:.0%} of the schedule; the best {record["keep"]} to its end; {last}'
    hours = ', '.join(f'{name} {seconds / 60:.0f} min' for name, seconds in record['estimate'].items() if seconds)
    yield f'         expected: {hours}; the rest for further seeds of the winner'
    for name, why in {**record['left_out'], **record['failed']}.items():
        yield f'         without {name}: {why}'
    for sentence in record['told']:
        yield f'race     {sentence}'
