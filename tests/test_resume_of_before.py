"""Work of users goes on: what the code of two earlier commits wrote is taken over by the code of today.

``resume_93433c5`` holds a training and a suite; ``resume_c987ebc1`` a training of either task, a project whose suite
was killed in the middle of ``kd`` with seed 1, and the files that ``export`` wrote. A training was saved by a runner
after 4 of 8 iterations, and went on to what ``recorded.json`` holds. A test here that fails means that users' folders
no longer go on: mend the code, not the data.
"""

import copy
import csv
import json
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
from mmdistill_dense.registry import HOOKS
from tests import toys

DATA = Path(__file__).parent / 'data'
CONFIGS = Path(__file__).parents[1] / 'configs'
BEFORE, LATER = DATA / 'resume_93433c5', DATA / 'resume_c987ebc1'
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
            place = slice(y, y + h), slice(x, x + w)
            image[place], mask[place] = colour, kind + 1
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


TRAININGS = {
    'seg, four methods': (BEFORE / 'training', {'distillers', 'balance', 'ema_state_dict'}),
    "seg, PCD with settings='auto'": (LATER / 'segmentation', {'distillers', 'balance'}),
    'det, FGD': (LATER / 'detection', {'distillers', 'balance'}),
}


@pytest.mark.parametrize(('stored', 'parts'), TRAININGS.values(), ids=TRAININGS)
def test_training_takes_all_over_and_goes_on_as_before(stored, parts, tmp_path, monkeypatch):
    shutil.copytree(stored, tmp_path / 'training')
    shutil.copytree(LATER / 'export', tmp_path / 'export')  # weights of a teacher
    monkeypatch.chdir(tmp_path / 'training')
    boxes = write_pictures(Path('pictures/img'), Path('pictures/ann'), range(24))
    Path('pictures/boxes.json').write_text(json.dumps(boxes))
    config = Config.fromfile('config.py')
    config.merge_from_dict(dict(resume=True, load_from='iter_4.pth'))
    config.custom_hooks = [*config.get('custom_hooks', []), dict(type='mmdistill_dense.BeforeTheFirstStep')]
    runner = toys.train(None, config)

    saved = torch.load('iter_4.pth', weights_only=False)
    seen = next(hook for hook in runner.hooks if isinstance(hook, BeforeTheFirstStep))
    parts = parts | {'state_dict', 'optimizer'}
    assert parts <= saved.keys()
    for part in parts:
        assert flat(seen.content[part]) == flat(saved[part]), part
    for told in saved['meta']['distill']['distillers'].values():
        told.pop('settings', None)  # in words, which are no longer kept
    for facts in seen.content['meta']['distill']['distillers'].values():
        assert {facts.pop('teacher'), *facts.pop('options')} > {'teacher'}, 'which older files do not tell'
    assert seen.content['meta']['distill'] == saved['meta']['distill']
    assert (seen.run['iteration'], seen.run['max_iters'], seen.run['seed']) == (4, 8, 5)

    recorded = json.loads(Path('recorded.json').read_text())
    steps = {}
    for line in next(Path('work').rglob('scalars.json')).read_text().splitlines():
        steps.setdefault(str(json.loads(line)['step']), {}).update(json.loads(line))
    assert steps.keys() == recorded['steps'].keys()
    for step, values in recorded['steps'].items():
        assert {name: steps[step][name] for name in values} == pytest.approx(values, **TOLERANCE), f'step {step}'
    end = torch.load('work/iter_8.pth', weights_only=False)
    weights = {f'{part}.{name}': (value.double(), saved[part][name].double())
               for part in ('state_dict', 'ema_state_dict', 'distillers')
               for name, value in end.get(part, {}).items()}  # fmt: skip
    norms = {name: one.norm().item() for name, (one, _) in weights.items()}
    assert norms == pytest.approx(recorded['norms'], **TOLERANCE)
    if 'moved' in recorded:  # how far each has gone since: its norm hardly changes in four steps
        moved = {name: (one - old).norm().item() for name, (one, old) in weights.items()}
        assert moved == pytest.approx(recorded['moved'], rel=1e-3, abs=1e-6)


def test_finished_suite_trains_nothing_and_gives_its_table(tmp_path, monkeypatch, capsys):
    shutil.copytree(BEFORE / 'suite', tmp_path / 'suite')
    monkeypatch.chdir(tmp_path / 'suite')
    monkeypatch.setenv('COLUMNS', '200')
    files = 'out/runs/half_cwd/seed0/config.py', CONFIGS / '_base_/datasets/shapes_seg.py'
    stored, scenes = map(Config.fromfile, files)
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):  # the demo's scenes are others since then
        stored[loader].dataset.painting = scenes[loader].dataset.get('painting')
    stored.dump(files[0])
    assert main(['suite', 'run', 'before.yaml']) == main(['suite', 'list', 'before.yaml']) == 0
    printed = capsys.readouterr().out
    assert '9 runs, 0 to do' in printed and printed.count(' finished ') == 9 and 'CHANGED' not in printed
    assert main(['suite', 'table', 'before.yaml', '--out', 'new']) == 0
    new, before = (list(csv.DictReader(Path(place, 'scores.csv').read_text().splitlines())) for place in ('new', 'out'))
    assert new[0].keys() <= before[0].keys() and {'name', 'config_hash'} & new[0].keys()
    assert new == [{key: row[key] for key in new[0]} for row in before]
    new, before = (Path(place, 'table.md').read_text().splitlines() for place in ('new', 'out'))
    scores = [[line.split('|')[:5] for line in lines if line.startswith('| ')] for lines in (new, before)]
    assert scores[0] == scores[1][: len(scores[0])]  # without costs, and without the values of a search below


def write_dumps(work):
    """The config that each run wrote, from the stored one: they differed in these places alone."""
    stored = (work / 'runs/kd/seed0/config.py').read_text()
    (kd,) = (line for line in stored.splitlines(keepends=True) if 'distillers=' in line)
    fitnet = kd.replace("kd=dict(settings='auto', type='LogitKD')", "fitnet=dict(loss_weight=2.0, type='FitNet')")
    runs = [(f'runs/{name}/seed{seed}', line, seed) for name, line in (('control', ''), ('fitnet', fitnet), ('kd', kd))
            for seed in (0, 1)]  # fmt: skip
    for folder, line, seed in [*runs, ('teacher', '', 0)]:
        text = stored.replace(kd, line).replace('seed=0', f'seed={seed}').replace('runs/kd/seed0', folder)
        if folder == 'teacher':
            text = text.replace("student=dict(cfg='student.py'", "student=dict(cfg='teacher.py'")
        (work / folder / 'config.py').write_text(text)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The stored project in the working folder, beside its pictures."""
    shutil.copytree(LATER / 'project', tmp_path, dirs_exist_ok=True)
    shutil.copy(tmp_path / 'student.py', tmp_path / 'teacher.py')
    write_dumps(tmp_path / 'project/work')
    for file in [*tmp_path.rglob('*.py'), *tmp_path.rglob('last_checkpoint')]:
        file.write_text(file.read_text().replace('FOLDER', str(tmp_path)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('COLUMNS', '200')
    for split, numbers in (('train', range(8)), ('val', range(8, 12))):
        write_pictures(Path('mine/images', split), Path('mine/labels', split), numbers)
    return Path('project')


def test_a_project_goes_on_to_its_student(project, capsys, monkeypatch):
    """Of its seven runs one was killed after 20 of 40 iterations. ``run`` trains its rest, reports and exports; ``suite
    table``, ``report`` and ``predict`` take what it wrote."""
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '-1')

    def printed(*words):
        assert main([str(word) for word in words]) == 0
        return capsys.readouterr().out

    definition = project / 'suite.yaml'
    before = {file: file.stat().st_mtime_ns for file in project.rglob('result.json')}
    listed = printed('suite', 'list', definition)
    assert listed.count(' finished ') == 6 and 'CHANGED' not in listed, listed
    told = printed('run', project, '--export', 'kd', 'fitnet')
    assert '7 runs, 1 to do' in told and 'iter_20.pth' in told, told
    assert before == {file: file.stat().st_mtime_ns for file in before}, 'nothing is trained twice'
    resumed = project / 'work/runs/kd/seed1'
    assert 'resumed epoch: 0, iter: 20' in (resumed / 'log.txt').read_text()
    end = torch.load(resumed / 'iter_40.pth', weights_only=False)['state_dict']
    recorded = json.loads((LATER / 'finished/recorded.json').read_text())
    assert {name: value.double().norm().item() for name, value in end.items()} == pytest.approx(recorded, **TOLERANCE)
    assert all((project / name).is_file() for name in ('report.html', 'student_kd.pth', 'student_fitnet.pth')), told
    assert '\nstudent  ' in told

    shutil.copytree(LATER / 'finished', resumed, dirs_exist_ok=True)
    assert printed('suite', 'list', definition).count(' finished ') == 7
    assert '7 runs, 0 to do' in printed('suite', 'run', definition)
    printed('suite', 'table', definition, '--out', 'table')
    rows = list(csv.DictReader(Path('table/scores.csv').read_text().splitlines()))
    runs = [('teacher', '0'), *((name, seed) for name in ('control', 'kd', 'fitnet') for seed in '01')]
    assert sorted((row['name'], row['seed']) for row in rows) == sorted(runs)
    assert [float(row['score']) for row in rows] == pytest.approx(7 * [27.85])
    printed('report', project / 'work', '--out', 'page.html')
    assert '27.85' in Path('page.html').read_text()
    printed('predict', project, 'mine/images/val', '--method', 'kd', '--out', 'found')
    assert len(list(Path('found').rglob('8*.png'))) >= 1


def test_an_exported_student_is_a_plain_network(monkeypatch):
    """Its weights fit the network of its config to the last name; the graph answers as this network does."""
    init_default_scope('mmseg')
    config = Config.fromfile(LATER / 'export/student.py')
    network = MODELS.build(config.model).eval()
    content = torch.load(LATER / 'export/student.pth', weights_only=False)
    assert content['meta']['dataset_meta']['classes'] == ('class_0', 'class_1', 'class_2')
    load_state_dict(network, content['state_dict'], strict=True)

    from mmdistill_dense.apps.export import open_graph, read_description

    image = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = torch.stack([sample.seg_logits.data for sample in network.predict(image)])
    (logits,) = open_graph(LATER / 'export/student.onnx')(image)
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5)
    assert logits.std() > 0.01
    told = read_description(LATER / 'export/student.onnx')
    assert told['classes'] == ['class_0', 'class_1', 'class_2'] and told['outputs']
