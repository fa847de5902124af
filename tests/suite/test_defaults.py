"""The question whether a default beats the better control: what is chosen on val, what is read on test, and chance."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from scipy import stats

from benchmarks import defaults

ROOT = Path(__file__).resolve().parents[2]


CONTROLS = {'control': {1: (50.0, 40.0), 2: (52.0, 41.0)}, 'control_x2': {1: (53.0, 39.0), 2: (52.0, 42.0)}}
TAUGHT = {'pcd_x2': {1: (54.0, 60.0), 2: (54.0, 60.0)}, 'pcd': {2: (56.0, 45.0), 1: (55.0, 40.0)}}


def test_rows_are_chosen_on_val_and_the_gain_is_read_on_test() -> None:
    control, method, gain = defaults.chosen(CONTROLS, TAUGHT)
    assert (control, method) == ('control_x2', 'pcd') and gain.each == {1: 1.0, 2: 3.0} and gain.mean == 2


def test_the_table_is_that_of_the_scores_and_its_interval_student_s_over_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    gains, files = [2.0, 2.5, -0.5, 3.0, 0.25, 1.75], []
    for pair, own in enumerate(gains):
        lines = ['name,seed,score,val/mIoU', 'teacher,0,70.0,71.0']
        for name, runs in (CONTROLS | TAUGHT).items():
            more = own - 2 if name == 'pcd' else 0
            lines += [f'{name},{seed},{test + more},{val}' for seed, (val, test) in runs.items()]
        files.append(tmp_path / f'pair{pair}.csv')
        files[-1].write_text('\n'.join(lines))
    defaults.main(['table', *map(str, files)])
    low, high = stats.t.interval(0.95, 5, np.mean(gains), stats.sem(gains))
    table = capsys.readouterr().out.splitlines()
    within = stats.t.interval(0.95, 1, 2, 1)
    assert table[2] == f'| pair0 | 70.00 | control_x2 | 40.50 | pcd | +2.00 [{within[0]:+.2f}, {within[1]:+.2f}] |'
    assert table[-1] == f'| **mean of 6 pairs** | | | | | +1.50 [{low:+.2f}, {high:+.2f}] |'
    files[0].write_text(files[0].read_text().rpartition('\n')[0])
    with pytest.raises(SystemExit, match='pcd has other seeds than control'):
        defaults.main(['table', str(files[0])])


def test_chance_alone_says_yes_in_no_more_than_one_of_twenty() -> None:
    files = [ROOT / 'docs/results' / f'{name}.csv' for name in ('camvid', 'camvid_1of8')]
    said = re.fullmatch(
        r'400 times 6 pairs of 3 seeds .*: yes (.*)%, no (.*)%; mean gain (.*), interval ± (.*)',
        defaults.told_of_chance(files, 6, 3, 400),
    )
    assert said is not None
    yes, no, mean, width = map(float, said.groups())
    assert 0 < yes <= 5 and 0 < no <= 5 and abs(mean) < 0.1 and 0.3 < width < 2


@pytest.mark.parametrize('task', ['seg', 'det'])
def test_the_page_has_the_table_of_the_pairs(task: str, capsys: pytest.CaptureFixture) -> None:
    scores = ROOT / 'benchmarks/pairs/scores' / task
    defined = yaml.safe_load((ROOT / f'benchmarks/pairs/defaults_{task}.yaml').read_text(encoding='utf-8'))['pairs']
    assert {file.stem for file in scores.glob('*')} == defined.keys()
    defaults.main(['table', *sorted(map(str, scores.glob('*.csv')))])
    assert capsys.readouterr().out in (ROOT / 'docs/results.md').read_text(encoding='utf-8')


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Write projects of two pairs in parts into ``out``, with ``new`` replaced; return what it was called with."""
    seen: list[list[str]] = []

    def new(words: list[str]) -> int:
        seen.append(words)
        folder = Path(words[words.index('--out') + 1])
        folder.mkdir(parents=True)
        rows = {'control_x2': {'rate': 2}, 'control_x4': {'rate': 4}, 'pcd': {'config': 'pcd.py', 'rate': 'control'}}
        suite = {'out': './work', 'methods': rows, 'seeds': [0]}
        (folder / 'suite.yaml').write_text(yaml.safe_dump(suite))
        return 0

    for place in ('images/train', 'annotations/train'):
        (tmp_path / 'streets' / place).mkdir(parents=True)
        for number in range(8):
            (tmp_path / 'streets' / place / f'{number}.{"jpg" if place[0] == "i" else "png"}').touch()
    images = [{'id': number, 'file_name': f'{number}.jpg'} for number in range(8)]
    told = {'images': images, 'annotations': [{'id': one, 'image_id': one // 2} for one in range(16)]}
    (tmp_path / 'streets/boxes.json').write_text(json.dumps(told))
    parts = {'train': ['images/train', 0, 5], 'val': ['images/train', 5, 8]}
    boxes = {'train': ['boxes.json', 0, 5], 'test': ['boxes.json', 5, 8]}
    pairs = {'seg': {'data': 'streets', 'parts': parts}, 'det': {'data': 'streets', 'parts': boxes, 'iters': 7}}
    told = {'seeds': [31, 32], 'rates': [2], 'all': {'size': [180, 240], 'iters': 5}, 'pairs': pairs}
    (tmp_path / 'told.yaml').write_text(yaml.safe_dump(told, sort_keys=False))
    monkeypatch.setattr(defaults, 'command', new)
    monkeypatch.setenv('MMDISTILL_DATA', str(tmp_path))
    defaults.main(['projects', str(tmp_path / 'told.yaml'), str(tmp_path / 'out')])
    return seen


ROWS = {'control_x2': {'rate': 2}, 'pcd': {'config': 'pcd.py'}, 'pcd_x2': {'config': 'pcd.py', 'rate': 2}}


def test_a_project_of_each_pair_has_further_rates_seeds_and_its_parts(tmp_path: Path, written: list[list[str]]) -> None:
    data, out = tmp_path / 'out/data', tmp_path / 'out'
    options = ['--size', '180', '240', '--iters', '5', '--data', str(data / 'seg'), '--out', str(out / 'seg')]
    assert written[0] == ['new', *options] and written[1][4:6] == ['--iters', '7'] and len(written) == 2
    suite = yaml.safe_load((out / 'seg/suite.yaml').read_text())
    assert suite['seeds'] == [31, 32] and suite['methods'] == ROWS and (suite['jobs'], suite['threads']) == (2, 1)
    names = {part: {path.stem for path in (data / 'seg/images' / part).iterdir()} for part in ('train', 'val')}
    assert [len(one) for one in names.values()] == [5, 3] and set.union(*names.values()) == set('01234567')
    for part, own in names.items():
        assert {path.stem for path in (data / 'seg/annotations' / part).iterdir()} == own
    assert (data / f'seg/images/val/{min(names["val"])}.jpg').is_file()
    for part, other in (('train', 'train'), ('test', 'val')):
        told = json.loads((data / f'det/annotations/instances_{part}.json').read_text())
        assert {Path(one['file_name']).stem for one in told['images']} == names[other]  # of the same shuffled names
        assert sorted(one['image_id'] for one in told['annotations']) == sorted(2 * [*map(int, names[other])])


@pytest.mark.parametrize(('twice', 'more'), [(41.0, True), (40.0, False), (39.0, False)])
def test_four_times_the_rate_is_tried_where_twice_was_better(
    twice: float, more: bool, tmp_path: Path, written: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {'control': {31: (40.0, 0.0)}, 'control_x2': {31: (twice, 0.0)}, 'pcd': {31: (99.0, 0.0)}}
    monkeypatch.setattr(defaults, 'load', lambda path: SimpleNamespace(out=path.parent))
    monkeypatch.setattr(defaults, 'scores_of', lambda file: scores)
    path = tmp_path / 'out/seg/suite.yaml'
    defaults.main(['faster', str(path)])
    added = {'control_x4': {'rate': 4}, 'pcd_x4': {'config': 'pcd.py', 'rate': 4}} if more else {}
    assert yaml.safe_load(path.read_text())['methods'] == ROWS | added


@pytest.mark.parametrize('task', ['seg', 'det'])
def test_the_pairs_name_files_that_are_here(task: str) -> None:
    told = yaml.safe_load((ROOT / f'benchmarks/pairs/defaults_{task}.yaml').read_text(encoding='utf-8'))
    assert len(told['pairs']) == 6 and len(told['seeds']) == 3
    for own in told['pairs'].values():
        both = told['all'] | own
        assert (ROOT / both['student']).is_file() and (ROOT / both['teacher']).is_file()
