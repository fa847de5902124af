"""The definitions that are shipped: each can be started by whoever has its data."""

import copy
import hashlib
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from mmengine.config import Config
from mmengine.registry import init_default_scope
from scipy import stats

from benchmarks import defaults
from mmdistill_dense.apps.suite import configs, job, plan, table
from mmdistill_dense.apps.suite.definition import Definition, fitting_methods, load_suite, read_suite_file
from mmdistill_dense.model.build import build_distillers
from mmdistill_dense.registry import DATASETS
from mmdistill_dense.unlabelled.pictures import picture_paths
from tests.suite import tiny

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / 'benchmarks').glob('*.yaml'))
CAMVID = ROOT.parent / 'shared' / 'data' / 'camvid'


@pytest.fixture(scope='module', params=FILES, ids=lambda path: path.stem)
def suite(request: pytest.FixtureRequest) -> Definition:
    return load_suite(request.param)


def test_no_two_suites_share_a_folder() -> None:
    usual = 'ade20k bccd camvid cityscapes coco cocostuff toy voc'
    assert {path.stem for path in FILES} >= {*usual.split()}
    outs = [read_suite_file(path).get('out', path.stem) for path in FILES]
    assert len(set(outs)) == len(outs)


def test_every_row_is_a_config_that_differs_in_its_distillers(suite: Definition) -> None:
    control = configs.control_config(suite).to_dict()
    configs_seen = [str(control)]
    for method in suite.methods.values():
        config = configs.method_config(suite, method).to_dict()
        configs_seen.append(f'{method.pretraining} {config}')
        assert configs_seen[-1] not in configs_seen[:-1], 'two rows are one'
        build_distillers(copy.deepcopy(config['model'].get('distillers') or {}), config['default_scope'])
        config['model'].pop('distillers', None)
        config = configs._comparable(Config(config))
        optimizer = {**control['optim_wrapper']['optimizer']}
        optimizer['lr'] *= method.rate
        wrapper = {**control['optim_wrapper'], 'optimizer': optimizer}
        expected = Config(copy.deepcopy({**control, 'optim_wrapper': wrapper}))
        expected.merge_from_dict(copy.deepcopy(method.run_options))
        whole = configs._comparable(expected)
        assert not list(configs.differences(config, {**whole, 'model': config['model']}))


# definitions that choose some of the methods, or have more rows
CHOSEN = """
bccd_51_detectors bccd_51_dino bccd_ablations bccd_unlabelled bccd_unlabelled_strict camvid_foundation_head
camvid_other_classes camvid_starts camvid_unlabelled camvid_unlabelled_strict cityscapes_ablations coco_ablations
nuclei_masks nuclei_masks_neck pcd_ablations toy
"""


def test_no_method_that_fits_is_left_out_of_a_comparison(suite: Definition) -> None:
    stem, rows = suite.path.stem, {method.method for method in suite.methods.values()} - {None}
    if stem in ('bccd_retinanet', 'camvid', 'camvid_1of8'):  # two cores have hours for some, on more seeds
        assert rows >= {'kd', 'afdcd', 'maskd', 'pcd'} and len(suite.seeds) >= 5
    elif stem.startswith('heldout_'):  # one method, named before the first run
        assert suite.methods.keys() == {'auto'} and rows == {'pcd'} and suite.methods['auto'].settings == 'auto'
        assert suite.seeds == (21, 22, 23, 24, 25)
    elif stem not in CHOSEN.split():
        assert rows == {*fitting_methods(suite.control)}
    if stem == 'camvid_other_classes':
        assert suite.options['model.teacher.classes'] == 'auto'


def test_the_control_has_the_batch_of_the_recipe(suite: Definition) -> None:
    """The teacher and the control; of the others the test above reads the configs."""
    runs = plan.runs(suite)
    firsts = {run.name: run for run in runs if run.is_teacher or run.name == plan.CONTROL}
    resolved = plan.resolved(suite, firsts.values())
    assert {len(config_hash) for _, config_hash in resolved.values()} == {configs.DIGITS}
    command = re.search(
        rf'^#   sh examples/slurm_array.sh benchmarks/{suite.path.name} (\d)', suite.path.read_text(), re.M
    )
    plan.check_batch(suite, resolved, int(command[1]) if command else 1)


@pytest.mark.soak
@pytest.mark.parametrize(('name', 'task'), [('cityscapes', 'seg'), ('coco', 'det')])
def test_every_row_of_a_papers_table_gives_a_number(
    name: str, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of the paper's definition over the toy pair, each trained and tested; the table has a line for each."""
    monkeypatch.chdir(tmp_path)
    rows = read_suite_file(ROOT / f'benchmarks/{name}_ablations.yaml')['methods']
    loop = {'max_epochs': 1, 'val_interval': 1} if task == 'det' else {'max_iters': 2, 'val_interval': 2}
    sizes = {f'{part}_dataloader.dataset.num_images': 4 for part in ('train', 'val', 'test')}
    short = {'train_cfg': loop, 'train_dataloader.batch_size': 2, **sizes}
    for row in rows.values():
        options = row.setdefault('options', {})
        if row.get('method') == 'maskd':
            options['maskd.learn.max_iters'] = 2
        elif row.pop('variant', None):  # of the paper's pair alone: another projector
            options['afdcd.projector'] = 'enhanced'
    rows['maskd']['options']['maskd.learn.max_iters'] = 2
    content = tiny.content(control=f'toy_{task}', methods=rows, seeds=[0], options=short)
    content['teacher'] = {'config': f'teachers/toy_{task}', 'options': short}
    suite = load_suite(tiny.write(tmp_path, **content))
    for run in plan.runs(suite):
        assert math.isfinite(job.execute_run(suite, run)['score']), run.title
    lines = table.as_markdown(table.collect(suite)).splitlines()
    assert all(any(line.startswith(f'| {row} |') for line in lines) for row in rows)


@pytest.mark.skipif(not CAMVID.is_dir(), reason=f'no {CAMVID}')
@pytest.mark.parametrize('name', [pytest.param('bccd_unlabelled', marks=pytest.mark.soak), 'bccd_unlabelled_strict'])
def test_the_few_labels_of_bccd_are_the_first_by_hash(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Also those of the strict teacher; the ceiling has all."""
    monkeypatch.setenv('MMDISTILL_DATA', str(CAMVID.parent))
    suite = load_suite(ROOT / 'benchmarks' / f'{name}.yaml')
    files = [path.name for path in (CAMVID.parent / 'bccd/images/train').iterdir()]
    few = sorted(files, key=lambda file: hashlib.sha256(file.encode()).hexdigest())[:51]
    teacher = configs.teacher_config(suite, suite.teacher)
    ceiling = configs.method_config(suite, suite.methods['all_labels']) if name == 'bccd_unlabelled' else teacher
    init_default_scope('mmdet')
    actual = [
        {Path(path).name for path in picture_paths(DATASETS.build(config.train_dataloader.dataset))}
        for config in (configs.control_config(suite), teacher, ceiling)
    ]
    counts = [205, 205] if name == 'bccd_unlabelled' else [51, 51]
    assert actual[0] == set(few) and [*map(len, actual[1:])] == counts


# Whether a default beats the better control: what is chosen on val, what is read on test, and chance

CONTROLS = {'control': {1: (50.0, 40.0), 2: (52.0, 41.0)}, 'control_x2': {1: (53.0, 39.0), 2: (52.0, 42.0)}}
TAUGHT = {'pcd_x2': {1: (54.0, 60.0), 2: (54.0, 60.0)}, 'pcd': {2: (56.0, 45.0), 1: (55.0, 40.0)}}


def test_rows_are_chosen_on_val() -> None:
    control, method, gain = defaults.chosen(CONTROLS, TAUGHT)
    assert (control, method) == ('control_x2', 'pcd') and gain.by_seed == {1: 1.0, 2: 3.0} and gain.mean == 2


def test_the_interval_of_the_table_is_students_over_pairs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    gains, files = [2.0, 2.5, -0.5, 3.0, 0.25, 1.75], []
    for pair, gain in enumerate(gains):
        lines = ['name,seed,score,val/mIoU', 'teacher,0,70.0,71.0']
        for name, runs in (CONTROLS | TAUGHT).items():
            more = gain - 2 if name == 'pcd' else 0
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
    match = re.fullmatch(
        r'400 times 6 pairs of 3 seeds .*: yes (.*)%, no (.*)%; mean gain (.*), interval ± (.*)',
        defaults.told_of_chance(files, 6, 3, 400),
    )
    assert match is not None
    yes, no, mean, width = map(float, match.groups())
    assert 0 < yes <= 5 and 0 < no <= 5 and abs(mean) < 0.1 and 0.3 < width < 2


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Write projects of two pairs in parts into ``out``, with ``new`` replaced; return what it was called with."""
    commands: list[list[str]] = []

    def new(words: list[str]) -> int:
        commands.append(words)
        folder = Path(words[words.index('--out') + 1])
        folder.mkdir(parents=True)
        rows = {'pcd': {'config': 'pcd.py'}}
        suite = {'out': './work', 'methods': rows, 'seeds': [0]}
        (folder / 'suite.yaml').write_text(yaml.safe_dump(suite))
        return 0

    for name in ('images/train', 'annotations/train'):
        (tmp_path / 'streets' / name).mkdir(parents=True)
        for number in range(8):
            (tmp_path / 'streets' / name / f'{number}.{"jpg" if name[0] == "i" else "png"}').touch()
    images = [{'id': number, 'file_name': f'{number}.jpg'} for number in range(8)]
    label_content = {'images': images, 'annotations': [{'id': number, 'image_id': number // 2} for number in range(16)]}
    (tmp_path / 'streets/boxes.json').write_text(json.dumps(label_content))
    parts = {'train': ['images/train', 0, 5], 'val': ['images/train', 5, 8]}
    boxes = {'train': ['boxes.json', 0, 5], 'test': ['boxes.json', 5, 8]}
    pairs = {'seg': {'data': 'streets', 'parts': parts}, 'det': {'data': 'streets', 'parts': boxes, 'iters': 7}}
    label_content = {'seeds': [31, 32], 'rates': [2], 'all': {'size': [180, 240], 'iters': 5}, 'pairs': pairs}
    (tmp_path / 'told.yaml').write_text(yaml.safe_dump(label_content, sort_keys=False))
    monkeypatch.setattr(defaults, 'command', new)
    monkeypatch.setenv('MMDISTILL_DATA', str(tmp_path))
    defaults.main(['projects', str(tmp_path / 'told.yaml'), str(tmp_path / 'out')])
    return commands


ROWS = {'control_x2': {'rate': 2}, 'pcd': {'config': 'pcd.py'}, 'pcd_x2': {'config': 'pcd.py', 'rate': 2}}


def test_a_project_of_each_pair_has_its_seeds(tmp_path: Path, written: list[list[str]]) -> None:
    data, out = tmp_path / 'out/data', tmp_path / 'out'
    options = ['--size', '180', '240', '--iters', '5', '--data', str(data / 'seg'), '--out', str(out / 'seg')]
    assert written[0] == ['new', *options] and written[1][4:6] == ['--iters', '7'] and len(written) == 2
    suite = yaml.safe_load((out / 'seg/suite.yaml').read_text())
    assert suite['seeds'] == [31, 32] and suite['methods'] == ROWS and (suite['jobs'], suite['threads']) == (2, 1)
    names = {part: {path.stem for path in (data / 'seg/images' / part).iterdir()} for part in ('train', 'val')}
    assert [len(name) for name in names.values()] == [5, 3] and set.union(*names.values()) == set('01234567')
    for part, names_of_part in names.items():
        assert {path.stem for path in (data / 'seg/annotations' / part).iterdir()} == names_of_part
    assert (data / f'seg/images/val/{min(names["val"])}.jpg').is_file()
    for part, other in (('train', 'train'), ('test', 'val')):
        text = json.loads((data / f'det/annotations/instances_{part}.json').read_text())
        assert {Path(image['file_name']).stem for image in text['images']} == names[other]  # of the same shuffled names
        assert sorted(entry['image_id'] for entry in text['annotations']) == sorted(2 * [*map(int, names[other])])


@pytest.mark.parametrize(('twice', 'more'), [(41.0, True), (40.0, False), (39.0, False)])
def test_four_times_the_rate_is_tried_where_twice_was_better(
    twice: float, more: bool, tmp_path: Path, written: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {'control': {31: (40.0, 0.0)}, 'control_x2': {31: (twice, 0.0)}, 'pcd': {31: (99.0, 0.0)}}
    monkeypatch.setattr(defaults, 'load_suite', lambda path: SimpleNamespace(out=path.parent))
    monkeypatch.setattr(defaults, 'scores_of', lambda file: scores)
    path = tmp_path / 'out/seg/suite.yaml'
    defaults.main(['faster', str(path)])
    added = {'control_x4': {'rate': 4}, 'pcd_x4': {'config': 'pcd.py', 'rate': 4}} if more else {}
    assert yaml.safe_load(path.read_text())['methods'] == ROWS | added
