"""Runs that are killed at random moments, again and again, end in the same bits as undisturbed ones.

The moments, and the ways in which data come and steps are taken, are drawn from a seed that is printed with every
point: ``MMDISTILL_KILL_SEED=5`` draws others, and ``MMDISTILL_KILL_TIMES=3`` as many points of each kind as three times
what is usual.
"""

import json
import os
import random
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kill import kinds
from tests.kill.child import STAGES, Moment
from tests.kill.kinds import DRAWN, SEED, WAYS
from tests.kill.server import Server, cpu_seconds
from tests.pretrain.files import table

TIMES = int(os.environ.get('MMDISTILL_KILL_TIMES', '1'))
POINTS = {
    'seg 0': ('stage', 'call', 'save', 'write'),
    'seg 1': ('stage', 'pointer'),
    'seg 2': ('outside', 'stage+outside+write'),
    'det': ('stage', 'save', 'outside+call'),
    'tokens': ('call', 'stage', 'tokens+write'),
    'pretraining': ('stage', 'write', 'outside'),
    'control seed 0': ('stage',),
    'maskd seed 0': ('call', 'tokens+outside'),
}
ALL = [(kind, f'{turn}-{how}') for kind, hows in POINTS.items() for turn, how in enumerate(hows * TIMES)]
STAGED = [point for point in ALL if 'stage' in point[1]]  # as many as there are stages
STABLE = ('name', 'seed', 'config_hash', 'metrics', 'score', 'checkpoint', 'iterations', 'shares')

pytestmark = pytest.mark.soak


class Undisturbed:
    """Runs that nobody disturbed, each made when it is first asked for: folder, events, seconds of an iteration."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = Server(folder)
        self.runs: dict[str, tuple[Path, dict[str, int]]] = {}
        self.kills = 0

    def run(self, kind: str) -> tuple[Path, dict[str, int]]:
        if kind not in self.runs:
            folder = self.begin(kind, self.folder / kind.replace(' ', '_'))
            self.runs[kind] = folder, self.server.whole(kind, folder, count=True)
        return self.runs[kind]

    def begin(self, kind: str, folder: Path) -> Path:
        """An empty folder; that of a suite's job holds the teacher, which is trained once."""
        if kind in kinds.KINDS:
            folder.mkdir()
            return folder
        suite = self.folder / 'suite'
        if not suite.is_dir():
            suite.mkdir()
            kinds.write_suite(suite)
            self.server.whole('teacher', suite)
        shutil.copytree(suite, folder)
        return folder


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    made = Undisturbed(tmp_path_factory.mktemp('undisturbed'))
    yield made
    print(f'\n{made.kills} kills with seed {SEED}; {cpu_seconds():.0f} s of CPU time in all processes')


def draw(stream: random.Random, number: int, how: str, counts: dict[str, int], size: int) -> tuple[Moment, float]:
    """A moment of the wanted sort, and for one from outside the seconds that pass before it."""
    at = stream.randint(1, max(1, counts[how] - 2 * (how == 'outside')))
    stage = list(STAGES)[(SEED + number) % len(STAGES)]  # in turn
    size = round(stream.uniform(0.05, 0.95) * size)
    return Moment(how, at, size, stage, stream.randint(1, 60)), stream.uniform(0, 0.1)


@pytest.mark.parametrize(('kind', 'point'), ALL)
def test_killed_run_ends_as_an_undisturbed_one(undisturbed: Undisturbed, tmp_path: Path, kind: str, point: str) -> None:
    if kind == 'pretraining':
        table()  # of the teacher's file; skips the test where it is not there
    whole, counts = undisturbed.run(kind)
    folder = undisturbed.begin(kind, tmp_path / 'run')
    stream = random.Random(f'{SEED}/{kind}/{point}')
    for turn, how in enumerate(point.partition('-')[2].split('+')):
        number = STAGED.index((kind, point)) if (kind, point) in STAGED else 0
        moment, delay = draw(stream, number, how, counts, smallest(whole))
        where = undisturbed.server.killed(kind, folder, moment, delay)
        assert where or turn, f'it ended before its first moment, {moment}'
        undisturbed.kills += bool(where)
        left = ', '.join(sorted(path.name for path in checkpoints(folder))) or 'none'
        end = where or 'finished before'
        print(f'\nseed {SEED}, {kind} {DRAWN.get(kind, "")} {point}: {moment}; {end}; files: {left}')
    undisturbed.server.whole(kind, folder)
    assert_same(folder, whole)


def smallest(whole: Path) -> int:
    return min(path.stat().st_size for path in [*checkpoints(whole), *whole.rglob('maskd_tokens/*.pth')])


def checkpoints(folder: Path) -> list[Path]:
    found = [*folder.glob('*.pth'), *folder.glob('out/runs/*/seed*/*.pth')]
    return [path for path in found if path.name.startswith(('iter_', 'epoch_', 'best_'))]


def assert_same(folder: Path, whole: Path) -> None:
    """Every file of the undisturbed run is there, and holds the same; so do tokens and the suite's result."""
    expected, found = (
        {path.relative_to(place): path for path in [*checkpoints(place), *place.rglob('maskd_tokens/*')]}
        for place in (whole, folder)
    )
    assert expected.keys() <= found.keys()
    for name, path in expected.items():
        contents = kinds.content(found[name]), kinds.content(path)
        assert not kinds.differing(*contents), name
    assert all(zipfile.is_zipfile(path) for path in found.values())
    assert results(folder) == results(whole)


def results(folder: Path) -> dict[str, Any]:
    read = {path.parent.name: json.loads(path.read_text()) for path in folder.glob('out/runs/*/seed*/result.json')}
    return {name: {key: result[key] for key in STABLE} for name, result in read.items()}


def test_contents_are_of_everything_that_training_goes_on_from(undisturbed: Undisturbed) -> None:
    """What is compared is no empty set, and two iterations of one run differ in every part of it."""
    whole, _ = undisturbed.run('seg 0')
    early, late = (kinds.content(whole / f'iter_{number}.pth') for number in (6, 8))
    parts = {name.split('/')[1] for name in late}
    assert {'state_dict', 'ema_state_dict', 'distillers', 'optimizer', 'param_schedulers', 'message_hub'} <= parts
    changed = {name.split('/')[1] for name in kinds.differing(early, late)}
    assert {'state_dict', 'ema_state_dict', 'distillers', 'optimizer', 'param_schedulers', 'message_hub'} <= changed
    queues = [name for name in late if 'queue' in name]
    assert queues and any(name in kinds.differing(early, late) for name in queues)


def test_each_way_and_each_stage_is_met() -> None:
    assert len(STAGED) >= len(STAGES)
    assert all(way in [drawn[name] for drawn in DRAWN.values()] for name, row in WAYS.items() for way in row)
