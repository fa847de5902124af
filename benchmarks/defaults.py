"""Is a student that `new` lets a teacher teach better than the best one without a teacher, on pairs that nobody tuned?

    python benchmarks/defaults.py projects benchmarks/pairs/defaults_seg.yaml DIR   # then `mmdistill run DIR/PAIR`
    python benchmarks/defaults.py faster DIR/*/suite.yaml  # adds four times the rate where twice was better
    python benchmarks/defaults.py table benchmarks/pairs/scores/seg/*.csv  # scores.csv of `mmdistill suite table`
    python benchmarks/defaults.py null docs/results/camvid*.csv                     # how often chance alone says yes

Of each pair the best control and the best rate of the method are chosen on val, and the gain is read on test, seed by
seed. A pair counts once: the interval of the mean is Student's t over the pairs' gains, which is that of a
random-effects model whose pairs are known equally well. With three seeds, weights by their own spread would be noise.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import fmean

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for tools/, which is no installed package

from benchmarks.evidence import Runs, as_text, mean_of, scores_of, write_part
from mmdistill_dense.__main__ import main as command
from mmdistill_dense.apps.suite.definition import is_alone, load_suite
from mmdistill_dense.apps.suite.verdict import Gain, paired_gain
from mmdistill_dense.utils.files import write_text


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line, and print."""
    parser = argparse.ArgumentParser(prog='defaults.py', description=str(__doc__).split('\n')[0])
    modes = parser.add_subparsers(required=True)
    projects = modes.add_parser(
        'projects', help='write a project of each pair, as `new` does, with further rates and seeds'
    )
    projects.add_argument('file', type=Path, help='defaults_….yaml')
    projects.add_argument('out', type=Path, help='folder of the projects')
    projects.set_defaults(run=lambda args: write_projects(args.file, args.out))
    faster = modes.add_parser('faster', help='rows at 4 times the rate, where twice is better on val for the control')
    faster.add_argument('file', type=Path, nargs='+', help='suite.yaml of a finished project')
    faster.set_defaults(run=lambda args: add_faster(args.file))
    table = modes.add_parser('table', help='a line for each pair, and the mean')
    table.add_argument('file', type=Path, nargs='+', help='scores.csv of a finished project, by the name of its pair')
    table.set_defaults(run=lambda args: print(as_markdown({one.stem: outcome_of(one) for one in args.file})))
    null = modes.add_parser('null', help='the same procedure on copies of the control')
    null.add_argument('file', type=Path, nargs='+', help='scores.csv of suites: their spreads over seeds are drawn')
    for name, default in (('pairs', 6), ('seeds', 3), ('rounds', 2000)):
        null.add_argument(f'--{name}', type=int, default=default)
    null.set_defaults(run=lambda args: print(told_of_chance(args.file, args.pairs, args.seeds, args.rounds)))
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except (OSError, ValueError) as error:
        sys.exit(f'{type(error).__name__}: {error}')


def write_projects(file: Path, out: Path) -> None:
    """Let ``new`` write a project of each pair, and add the rows and seeds of the definition to its suite."""
    told = yaml.safe_load(file.read_text(encoding='utf-8'))
    for name, own in told['pairs'].items():
        data = Path(os.environ['MMDISTILL_DATA'], own['data'])
        parts = own.get('parts', {})
        for part, which in parts.items():
            write_part(data, part, which, out / 'data' / name)
        options = {**told['all'], **own, 'data': out / 'data' / name if parts else data, 'out': out / name}
        options.pop('parts', None)
        words = [
            [f'--{key}', *(map(str, value) if isinstance(value, list) else [str(value)])]
            for key, value in options.items()
        ]
        if command(['new', *chain.from_iterable(words)]):
            raise ValueError(f'{file}: pairs.{name}: `new` refuses it, see above')
        suite = yaml.safe_load((out / name / 'suite.yaml').read_text(encoding='utf-8'))
        ((method, row),) = suite['methods'].items()
        for rate in told['rates']:
            suite['methods'] |= {f'control_x{rate}': {'rate': rate}, f'{method}_x{rate}': {**row, 'rate': rate}}
        suite |= {'seeds': told['seeds'], 'jobs': 2, 'threads': 1}
        write_text(out / name / 'suite.yaml', yaml.safe_dump(suite, sort_keys=False))


def add_faster(files: Sequence[Path]) -> None:
    """Add control and method at four times the rate to suites whose control is better at twice the rate, on val."""
    for path in files:
        rows = scores_of(load_suite(path).out / 'scores.csv')
        once, twice = (fmean(val for val, _ in rows[name].values()) for name in ('control', 'control_x2'))
        if twice > once:
            suite = yaml.safe_load(path.read_text(encoding='utf-8'))
            method, row = next((name, row) for name, row in suite['methods'].items() if not is_alone(name))
            suite['methods'] |= {'control_x4': {'rate': 4}, f'{method}_x4': {**row, 'rate': 4}}
            write_text(path, yaml.safe_dump(suite, sort_keys=False))
        print(f'{path.parent.name}: val of the student alone {once:.2f}, at twice the rate {twice:.2f}')


@dataclass(frozen=True)
class Outcome:
    """What a pair says: the rows that are best on val, and the gain on test."""

    control: str
    taught: str
    gain: Gain
    alone: float  # mean of the control on test
    teacher: float  # its score on test


def outcome_of(file: Path) -> Outcome:
    """Return what the scores of a finished pair say. A row with other seeds than the control is refused."""
    rows = scores_of(file)
    ((_, score),) = rows.pop('teacher').values()
    if short := [name for name, runs in rows.items() if runs.keys() != rows['control'].keys()]:
        raise ValueError(f'{file}: {", ".join(short)} has other seeds than control')
    controls = {name: runs for name, runs in rows.items() if is_alone(name)}
    alone, own, gain = chosen(controls, {name: runs for name, runs in rows.items() if name not in controls})
    return Outcome(alone, own, gain, fmean(test for _, test in rows[alone].values()), score)


def chosen(controls: Mapping[str, Runs], taught: Mapping[str, Runs]) -> tuple[str, str, Gain]:
    """Return the control and the method that are best on val, and the method's gain on test, by seed."""
    alone, own = (
        max(rows, key=lambda name: fmean(val for val, _ in rows[name].values())) for rows in (controls, taught)
    )
    gain = paired_gain(*({seed: test for seed, (_, test) in one.items()} for one in (taught[own], controls[alone])))
    if gain is None:
        raise ValueError('no seed of the method is one of the control')
    return alone, own, gain


def as_markdown(pairs: Mapping[str, Outcome]) -> str:
    """Return the table of the pairs, with their mean below."""
    head = ['pair', 'teacher', 'better control', 'student alone', 'method', 'gain [95 % interval]']
    lines = [f'| {" | ".join(head)} |', '|---|--:|---|--:|---|--:|']
    for name, one in pairs.items():
        cells = [name, f'{one.teacher:.2f}', one.control, f'{one.alone:.2f}', one.taught, as_text(one.gain)]
        lines.append(f'| {" | ".join(cells)} |')
    mean = mean_of([one.gain.mean for one in pairs.values()])
    return '\n'.join([*lines, f'| **mean of {mean.n} pairs** | | | | | {as_text(mean)} |'])


def told_of_chance(files: Sequence[Path], pairs: int, seeds: int, rounds: int) -> str:
    """Simulate pairs whose method is a copy of the control, and return how often the mean's interval leaves 0 out.

    Val and test of a run differ from their row's mean as drawn from the suites; the second rate of a pair is better or
    worse, by 2 points on average, for control and method alike.
    """
    rng, spreads = np.random.default_rng(0), list[np.ndarray]()
    for rows in map(scores_of, files):
        own = [np.array([*runs.values()]) for runs in rows.values() if len(runs) > 1]
        spreads.append(np.concatenate([(one - one.mean(0)) * (len(one) / (len(one) - 1)) ** 0.5 for one in own]))

    def row(spread: np.ndarray, level: float) -> Runs:
        return {seed: (level + val, level + test) for seed, (val, test) in enumerate(rng.choice(spread, seeds))}

    found = np.empty((rounds, 3))  # low end, mean and high end of each round's interval
    for place in range(rounds):
        gains = []
        for _ in range(pairs):
            spread, levels = spreads[rng.integers(len(spreads))], (0.0, rng.normal(0, 2 * (np.pi / 2) ** 0.5))
            controls, taught = ({str(level): row(spread, level) for level in levels} for _ in range(2))
            gains.append(chosen(controls, taught)[2].mean)
        one = mean_of(gains)
        found[place] = one.low or 0.0, one.mean, one.high or 0.0
    low, mean, high = found.T
    return (
        f'{rounds} times {pairs} pairs of {seeds} seeds without any effect: yes {(low > 0).mean():.1%}, '
        f'no {(high < 0).mean():.1%}; mean gain {mean.mean():+.2f}, interval ± {(high - mean).mean():.2f}'
    )


if __name__ == '__main__':
    main()
