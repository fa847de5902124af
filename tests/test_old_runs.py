"""Work of users goes on: what the code of three earlier commits wrote is taken over by the code of today.

``resume_93433c5`` holds a training, ``resume_c987ebc1`` a training of either task and what ``export`` wrote; each
training was saved after 4 of 8 iterations, and went on to what ``recorded.json`` holds. ``balance`` has left since:
with the measured number as ``loss_weight`` they go on alike.
``resume_dc388344/make.py`` made trainings, a suite, projects, an exported student and the list of every name. Where a
test here fails, users' folders, configs or programs break: mend the code, not the data; what is meant to leave is named
in ``docs/removed.md``.
"""

import copy
import csv
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import load_state_dict
from mmseg.registry import MODELS

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.export import open_graph, read_description
from mmdistill_dense.registry import HOOKS
from tests import public_names, toys

ROOT = Path(__file__).parents[1]
BEFORE, LATER, STORED = (ROOT / f'tests/data/resume_{commit}' for commit in ('93433c5', 'c987ebc1', 'dc388344'))
TOLERANCE = dict(rel=1e-4, abs=1e-7)  # of another machine


@HOOKS.register_module()
class BeforeTheFirstStep(Hook):
    """Keeps what a checkpoint would hold before the first step of the resumed run, and the state of the run."""

    priority = 'LOWEST'
    content = run = None

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.content is None:
            self.run = vars(runner.model.distillation.state).copy()
            parts = dict(state_dict=runner.model.state_dict(), optimizer=runner.optim_wrapper.state_dict())
            runner.call_hook('before_save_checkpoint', checkpoint=(checkpoint := dict(meta={}, **parts)))
            self.content = copy.deepcopy(checkpoint)


@HOOKS.register_module()
class FitNetAsMeasured(Hook):
    """Gives FitNet the weight of each step that ``balance`` had measured in it, to the end of the run."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        recorded = json.loads(Path('recorded.json').read_text())['steps'][str(runner.iter + 1)]
        runner.model.distillers['fitnet'].loss_weight = recorded['distill.fitnet.weight']


def write_pictures(images, labels, numbers):
    """Two rectangles on noise each, the same with every version of numpy, and their labels; returns the content of a
    label file with their boxes."""
    for folder in (images, labels):
        folder.mkdir(parents=True)
    objects = []
    for number in numbers:
        random = np.random.RandomState(number)
        image = random.randint(90, 160, (64, 64, 3)).astype(np.uint8)
        mask = np.zeros((64, 64), np.uint8)
        for kind, colour in enumerate(((40, 40, 220), (220, 60, 40))):  # of the classes 1 and 2
            (x, y), (w, h) = random.randint(0, 34, 2).tolist(), random.randint(12, 28, 2).tolist()
            region = slice(y, y + h), slice(x, x + w)
            image[region], mask[region] = colour, kind + 1
            size = dict(bbox=[x, y, w, h], area=w * h, iscrowd=0)
            objects.append(dict(id=len(objects), image_id=number, category_id=kind, **size))
        cv2.imwrite(str(images / f'{number}.png'), image)
        cv2.imwrite(str(labels / f'{number}.png'), mask)
    files = [dict(id=number, file_name=f'{number}.png', height=64, width=64) for number in numbers]
    names = [dict(id=kind, name=name) for kind, name in enumerate(('red', 'blue'))]
    return dict(images=files, annotations=objects, categories=names)


def flat(value, name=''):
    """All numbers of a nested value by their place, tensors as lists."""
    if isinstance(value, torch.Tensor):
        return {name: value.tolist()}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    return {k: v for key, item in items for k, v in flat(item, f'{name}.{key}').items()} or {name: value}


def check_end(log, before):
    """The steps of a log, and how far the weights went from those of a checkpoint, are the recorded ones."""
    recorded, steps = json.loads(Path('recorded.json').read_text()), {}
    for line in map(json.loads, log.read_text().splitlines()):
        steps.setdefault(str(line['step']), {}).update(line)
    assert steps.keys() == recorded['steps'].keys() == set('5678')
    for step, values in recorded['steps'].items():
        values = {name: value for name, value in values.items() if not name.endswith(('.weight', '.ratio'))}
        assert {name: steps[step].get(name) for name in values} == pytest.approx(values, **TOLERANCE), f'step {step}'
    end = torch.load('work/iter_8.pth', weights_only=False)
    assert end['meta']['iter'] == 8
    parts = 'state_dict', 'ema_state_dict', 'distillers'
    weights = {f'{part}.{name}': (value.double(), before[part][name].double())
               for part in parts for name, value in end.get(part, {}).items()}  # fmt: skip
    actual = {'norms': {name: weight.norm().item() for name, (weight, _) in weights.items()},
             'moved': {name: (weight - start).norm().item() for name, (weight, start) in weights.items()}}  # fmt: skip
    for kind in actual.keys() & recorded.keys():  # a norm hardly changes in four steps
        bounds = TOLERANCE if kind == 'norms' else dict(rel=1e-3, abs=1e-6)
        assert actual[kind] == pytest.approx(recorded[kind], **bounds)


TRAININGS = {
    'seg, four methods': (BEFORE / 'training', {'distillers', 'ema_state_dict'}, 'fitnet', 0.0425),
    "seg, PCD with settings='auto'": (LATER / 'segmentation', {'distillers'}, 'pcd', 0.02233),
    'det, FGD': (LATER / 'detection', {'distillers'}, 'fgd', 0.03327),
}


@pytest.mark.sample(1)
@pytest.mark.parametrize(('stored', 'parts', 'name', 'weight'), TRAININGS.values(), ids=TRAININGS)
def test_a_training_takes_all_over(stored, parts, name, weight, tmp_path, monkeypatch):
    shutil.copytree(stored, tmp_path / 'training')
    shutil.copytree(LATER / 'export', tmp_path / 'export')  # weights of a teacher
    monkeypatch.chdir(tmp_path / 'training')
    boxes = write_pictures(Path('pictures/img'), Path('pictures/ann'), range(24))
    Path('pictures/boxes.json').write_text(json.dumps(boxes))
    config = Config.fromfile('config.py')
    config.merge_from_dict(dict(resume=True, load_from='iter_4.pth'))
    if 'balance' in config.model.distillers[name]:
        with pytest.raises(TypeError, match=f'distillers.{name}: balance has left: set loss_weight; the log of a run'):
            toys.train(None, copy.deepcopy(config))
    config.model.distillers[name].update(balance=None, loss_weight=weight)
    hooks = ['BeforeTheFirstStep', *(['FitNetAsMeasured'] if name == 'fitnet' else [])]
    config.custom_hooks = [*config.get('custom_hooks', []), *(dict(type=f'mmdistill_dense.{hook}') for hook in hooks)]
    runner = toys.train(None, config)

    saved = torch.load('iter_4.pth', weights_only=False)
    first_weights = next(hook for hook in runner.hooks if isinstance(hook, BeforeTheFirstStep))
    parts = parts | {'state_dict', 'optimizer'}
    assert parts <= saved.keys()
    for part in parts:
        assert flat(first_weights.content[part]) == flat(saved[part]), part
    for distiller in saved['meta']['distill']['distillers'].values():
        distiller.pop('settings', None)  # in words, which are no longer kept
    saved['meta']['distill'].pop('balance')
    for facts in first_weights.content['meta']['distill']['distillers'].values():
        assert facts.pop('teacher'), 'which older files do not tell'
    assert first_weights.content['meta']['distill'] == saved['meta']['distill']
    assert (first_weights.run['iteration'], first_weights.run['max_iters'], first_weights.run['seed']) == (4, 8, 5)

    check_end(next(Path('work').rglob('scalars.json')), saved)


def test_an_exported_student_is_a_plain_network(monkeypatch):
    """Its weights fit the network of its config to the last name; the graph answers as this network does."""
    init_default_scope('mmseg')
    config = Config.fromfile(LATER / 'export/student.py')
    network = MODELS.build(config.model).eval()
    content = torch.load(LATER / 'export/student.pth', weights_only=False)
    assert content['meta']['dataset_meta']['classes'] == ('class_0', 'class_1', 'class_2')
    load_state_dict(network, content['state_dict'], strict=True)

    image = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = torch.stack([sample.seg_logits.data for sample in network.predict(image)])
    (logits,) = open_graph(LATER / 'export/student.onnx')(image)
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5)
    assert logits.std() > 0.01
    description = read_description(LATER / 'export/student.onnx')
    assert description['classes'] == ['class_0', 'class_1', 'class_2'] and description['outputs']


# What commit dc388344 wrote


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The stored files in the working folder, with its name in them, beside the pictures that they name."""
    shutil.copytree(STORED, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns('make.py', 'names.txt'))
    for file in [*tmp_path.rglob('*.py'), *tmp_path.rglob('*.json'), *tmp_path.rglob('last_checkpoint')]:
        file.write_text(file.read_text().replace('FOLDER', str(tmp_path)))
    monkeypatch.chdir(tmp_path)
    shutil.copy('configs/net.py', '.')
    monkeypatch.setenv('COLUMNS', '200')
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '-1')
    monkeypatch.setenv('MMDISTILL_DATA', str(tmp_path))  # from where the project's places count
    for split, numbers in (('train', range(14)), ('val', range(14, 18))):
        write_pictures(Path('mine/images', split), Path('mine/labels', split), numbers)
    return tmp_path


@pytest.fixture
def program(capfd):
    """Runs ``mmdistill`` as a user does, and returns what it printed."""

    def run(*words):
        code = main([str(word) for word in words])
        out, err = capfd.readouterr()
        assert code == 0, out + err
        return out + err

    return run


@pytest.mark.parametrize('task', ['segmentation', pytest.param('detection', marks=pytest.mark.soak)])
def test_a_stopped_training_goes_on_as_it_did_then(task, folder, program, capfd):
    """SIGTERM came in the fourth of 8 steps: PCD's queue, CIRKD's memories, tokens of MasKD, averaged weights and
    pictures without labels go on, KD and FGD with the weights that were measured."""
    shutil.copytree(task, '.', dirs_exist_ok=True)
    shutil.copy(f'configs/{task}.py', 'config.py')
    boxes = write_pictures(Path('pictures/img'), Path('pictures/ann'), range(24))
    Path('pictures/boxes.json').write_text(json.dumps(boxes))
    write_pictures(Path('pictures/more'), Path('pictures/unused'), range(30, 36))
    before = torch.load('work/iter_4.pth', weights_only=False)
    starts = {*Path('work').glob('*/vis_data/scalars.json')}
    name, weight = dict(segmentation=('kd', 0.6037), detection=('fgd', 0.07583))[task]
    assert main(['train', 'config.py', '--resume']) != 0
    assert f'model.distillers.{name}: balance has left: set loss_weight; ' in capfd.readouterr().err
    options = [f'model.distillers.{name}.{option}' for option in ('balance=None', f'loss_weight={weight}')]
    out = program('train', 'config.py', '--resume', '--cfg-options', *options)
    assert 'resumed epoch: 0, iter: 4' in out
    assert f'The checkpoint has measured weights of {name}. balance has left: set loss_weight' in out

    (log,) = {*Path('work').glob('*/vis_data/scalars.json')} - starts
    check_end(log, before)


def test_a_finished_suite_is_read(folder, program):
    listing = program('suite', 'list', 'suite/suite.yaml')
    assert listing.count(' finished ') == 5 and 'CHANGED' not in listing, listing
    assert '5 runs, 0 to do' in program('suite', 'run', 'suite/suite.yaml')
    program('suite', 'table', 'suite/suite.yaml', '--out', 'new')
    new, old = (list(csv.DictReader(Path(f'{name}/scores.csv').read_text().split())) for name in ('new', 'suite/out'))
    assert new == old and {row['name'] for row in new} == {'teacher', 'control', 'kd'}
    program('report', 'suite/out', '--out', 'page.html', '--pictures', '0')
    page = Path('page.html').read_text()
    assert 'kd' in page and all(f'{np.mean([float(row["score"]) for row in old if row["name"] == name]):.2f}' in page
                                for name in ('control', 'kd'))  # fmt: skip


def follow_the_sentence(capfd):
    """The method took the rate of the best of three controls, which has left: do what the sentence says."""
    assert main(['suite', 'list', 'project/suite.yaml']) == 2
    message = 'methods.pcd.rate: suite rate: control has left: leave it out, and remove the folder of the row where'
    assert message in capfd.readouterr().err
    begun, suite = Path('project/work/runs/pcd'), Path('project/suite.yaml')
    if begun.is_dir() and '\n# rate: 2\n' in (begun / 'seed0/run.py').read_text():
        shutil.rmtree(begun)
    suite.write_text(suite.read_text().replace(', rate: control', ''))


def test_a_project_is_read(folder, program, capfd):
    """It has the rows of then: the student alone at three rates."""
    follow_the_sentence(capfd)
    listing = program('suite', 'list', 'project/suite.yaml')
    assert listing.count(' finished ') == 4 and listing.count(' waits ') == 1, listing
    shutil.rmtree('project/work')
    listing = program('suite', 'list', 'project/suite.yaml')
    assert listing.count(' waits ') == 5, listing


@pytest.mark.soak
@pytest.mark.parametrize('begun', [True, False])
def test_a_project_goes_on_to_its_student(begun, folder, program, capfd):
    """One was stopped in its method, the other was never run."""
    if not begun:
        shutil.rmtree('project/work')
    follow_the_sentence(capfd)
    assert main(['run', 'project']) == 2
    assert 'pcd: TypeError: model.distillers.pcd: balance has left: set loss_weight; ' in capfd.readouterr().err
    method = Path('project/pcd.py')
    method.write_text(method.read_text().replace("balance=dict(ratio='auto')", 'loss_weight=0.1'))
    finished = {file: file.stat().st_mtime_ns for file in Path('project').rglob('result.json')}
    printed = program('run', 'project', '--export', 'pcd')
    assert f'5 runs, {1 if begun else 5} to do' in printed, printed
    assert finished == {file: file.stat().st_mtime_ns for file in finished}, 'nothing is trained twice'
    assert torch.load('project/work/runs/pcd/seed0/iter_40.pth', weights_only=False)['meta']['iter'] == 40
    assert len(list(Path('project').rglob('result.json'))) == 5 and Path('project/report.html').is_file()
    best = (
        'student  not written: control cannot be exported: its weights are gone'
        if begun
        else 'student  project/student.pth'
    )
    assert best in printed, printed
    program('predict', 'project', 'mine/images/val', '--out', 'found', '--method', 'pcd')
    assert len(list(Path('found/labels').rglob('*.png'))) == 4


def test_an_exported_student_finds_what_it_found(folder, program):
    program('predict', 'export/student.pth', 'mine/images/val', '--out', 'found', '--device', 'cpu')
    actual, stored = (
        np.stack([cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in sorted(folder.rglob('*.png'))])
        for folder in (Path('found/labels'), Path('export/labels'))
    )
    assert actual.shape == stored.shape and {*np.unique(stored)} == {0, 1, 2}
    assert (actual != stored).mean() < 1e-3, 'but for equal scores on another machine'


def is_removed(name, terms):
    """Whether ``docs/removed.md`` names what this name belongs to."""
    kind, words = name.split(' ', 1)
    if kind in ('command', 'suite', 'row'):
        words = words if kind == 'command' else f'suite {words}'
        return any(f'{words} '.startswith(f'{term} ') for term in terms)
    if kind == 'config':  # METHOD/… or …/METHOD_….py
        return any(part.startswith(term.lower()) for part in Path(words).parts for term in terms)
    keys = {words, *(re.split('[. ]', words)[index].replace('_', '') for index in (0, -1))}
    return bool({key.lower() for key in keys} & {term.lower() for term in terms})


def test_every_name_is_there_or_named_as_removed():
    """Names of imports may have moved, if the old ones still work."""
    rows = [line.split('|')[1] for line in (ROOT / 'docs/removed.md').read_text().splitlines() if line.startswith('| ')]
    terms = {term for row in rows for term in re.findall('`([^`]+)`', row)}
    stored, today = (STORED / 'names.txt').read_text().splitlines(), public_names.names()
    missing = [name for name in stored if name not in today and not public_names.exists(name.removeprefix('import '))]
    assert 'class DISTILLERS QueryMatch' in missing
    assert not [name for name in missing if not is_removed(name, terms)]
