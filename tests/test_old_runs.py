"""What users made with commit dc388344 goes on: trainings, a suite, a project, an exported student, and every name.

``data/resume_dc388344/make.py`` made the files with the code of that commit. A test here that fails means that users'
folders, configs or programs break: mend the code, not the data; what is meant to leave is named in ``docs/removed.md``.
"""

import csv
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mmdistill_dense.__main__ import main
from tests import public_names
from tests.test_resume_of_before import TOLERANCE, write_pictures

STORED = Path(__file__).parent / 'data/resume_dc388344'
REMOVED = Path(__file__).parents[1] / 'docs/removed.md'


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
def test_a_stopped_training_goes_on_as_it_did_then(task, folder, program):
    """SIGTERM came in the fourth of 8 steps: PCD's queue, CIRKD's memories, measured weights of KD and FGD, tokens of
    MasKD, averaged weights and pictures without labels go on."""
    shutil.copytree(task, '.', dirs_exist_ok=True)
    shutil.copy(f'configs/{task}.py', 'config.py')
    boxes = write_pictures(Path('pictures/img'), Path('pictures/ann'), range(24))
    Path('pictures/boxes.json').write_text(json.dumps(boxes))
    write_pictures(Path('pictures/more'), Path('pictures/unused'), range(30, 36))
    before = torch.load('work/iter_4.pth', weights_only=False)
    starts = {*Path('work').glob('*/vis_data/scalars.json')}
    assert 'resumed epoch: 0, iter: 4' in program('train', 'config.py', '--resume')

    recorded, steps = json.loads(Path('recorded.json').read_text()), {}
    (log,) = {*Path('work').glob('*/vis_data/scalars.json')} - starts
    for line in map(json.loads, log.read_text().splitlines()):
        steps.setdefault(str(line['step']), {}).update(line)
    assert steps.keys() == recorded['steps'].keys() == set('5678')
    for step, values in recorded['steps'].items():
        assert {name: steps[step].get(name) for name in values} == pytest.approx(values, **TOLERANCE), f'step {step}'
    end = torch.load('work/iter_8.pth', weights_only=False)
    assert end['meta']['iter'] == 8
    moved = {f'{part}.{name}': (value.double() - before[part][name].double()).norm().item()
             for part in ('state_dict', 'ema_state_dict', 'distillers')
             for name, value in end.get(part, {}).items()}  # fmt: skip
    assert moved == pytest.approx(recorded['moved'], rel=1e-3, abs=1e-6)


def test_a_finished_suite_is_read(folder, program):
    listed = program('suite', 'list', 'suite/suite.yaml')
    assert listed.count(' finished ') == 5 and 'CHANGED' not in listed, listed
    assert '5 runs, 0 to do' in program('suite', 'run', 'suite/suite.yaml')
    program('suite', 'table', 'suite/suite.yaml', '--out', 'new')
    new, old = (list(csv.DictReader(Path(f'{place}/scores.csv').read_text().split())) for place in ('new', 'suite/out'))
    assert new == old and {row['name'] for row in new} == {'teacher', 'control', 'kd'}
    program('report', 'suite/out', '--out', 'page.html', '--pictures', '0')
    page = Path('page.html').read_text()
    assert 'kd' in page and all(f'{np.mean([float(row["score"]) for row in old if row["name"] == name]):.2f}' in page
                                for name in ('control', 'kd'))  # fmt: skip


def follow_the_sentence(capfd):
    """The method took the rate of the best of three controls, which has left: do what the sentence says."""
    assert main(['suite', 'list', 'project/suite.yaml']) == 2
    told = 'methods.pcd.rate: suite rate: control has left: leave it out, and remove the folder of the row where'
    assert told in capfd.readouterr().err
    begun, suite = Path('project/work/runs/pcd'), Path('project/suite.yaml')
    if begun.is_dir() and '\n# rate: 2\n' in (begun / 'seed0/run.py').read_text():
        shutil.rmtree(begun)
    suite.write_text(suite.read_text().replace(', rate: control', ''))


def test_a_project_is_read(folder, program, capfd):
    """It has the rows of then: the student alone at three rates."""
    follow_the_sentence(capfd)
    listed = program('suite', 'list', 'project/suite.yaml')
    assert listed.count(' finished ') == 4 and listed.count(' waits ') == 1, listed
    shutil.rmtree('project/work')
    listed = program('suite', 'list', 'project/suite.yaml')
    assert listed.count(' waits ') == 5, listed


@pytest.mark.soak
@pytest.mark.parametrize('begun', [True, False])
def test_a_project_goes_on_to_its_student(begun, folder, program, capfd):
    """One was stopped in its method, the other was never run."""
    if not begun:
        shutil.rmtree('project/work')
    follow_the_sentence(capfd)
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
    found, stored = (
        np.stack([cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in sorted(place.rglob('*.png'))])
        for place in (Path('found/labels'), Path('export/labels'))
    )
    assert found.shape == stored.shape and {*np.unique(stored)} == {0, 1, 2}
    assert (found != stored).mean() < 1e-3, 'but for equal scores on another machine'


def is_removed(name, terms):
    """Whether ``docs/removed.md`` names what this name belongs to."""
    kind, words = name.split(' ', 1)
    if kind in ('command', 'suite', 'row'):
        words = words if kind == 'command' else f'suite {words}'
        return any(f'{words} '.startswith(f'{term} ') for term in terms)
    if kind == 'config':  # METHOD/… or …/METHOD_….py
        return any(part.startswith(term.lower()) for part in Path(words).parts for term in terms)
    keys = {words, *(re.split('[. ]', words)[place].replace('_', '') for place in (0, -1))}
    return bool({key.lower() for key in keys} & {term.lower() for term in terms})


def test_every_name_is_there_or_named_as_removed():
    """Names of imports may have moved, if the old ones still work."""
    rows = [line.split('|')[1] for line in REMOVED.read_text().splitlines() if line.startswith('| ')]
    terms = {term for row in rows for term in re.findall('`([^`]+)`', row)}
    stored, today = (STORED / 'names.txt').read_text().splitlines(), public_names.names()
    missing = [name for name in stored if name not in today and not public_names.exists(name.removeprefix('import '))]
    assert 'class DISTILLERS QueryMatch' in missing
    assert not [name for name in missing if not is_removed(name, terms)]
