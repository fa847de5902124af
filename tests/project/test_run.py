"""``run``: a project of tiny real networks ends with a report and a student, and nothing is done twice."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mmengine.config import Config

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.project import run_project, training_plan
from mmdistill_dense.apps.report.section import Section
from mmdistill_dense.apps.suite import plan
from mmdistill_dense.apps.suite.definition import load_suite
from mmdistill_dense.apps.suite.table import collect
from mmdistill_dense.utils.files import owned
from tests.engine.processes import environment
from tests.project.commands import project
from tests.project.conftest import time_training
from tests.suite.tiny import write_result

pytestmark = pytest.mark.usefixtures('folder')


@pytest.mark.soak
def test_a_project_is_not_done_again(capsys: pytest.CaptureFixture) -> None:
    project_folder = project()
    assert main(['run', str(project_folder)]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ('check    teacher: ok', 'check    kd: ok', 'the student alone', 'report'))
    assert 'mmengine - INFO' not in out
    written = [project_folder / 'report.html', project_folder / 'student.pth', project_folder / 'student.py']
    times = [path.stat().st_mtime for path in written]
    assert 'distillers' not in Config.fromfile(written[2]).model
    results = list(project_folder.rglob('result.json'))
    assert len(results) == 3
    began = time.time()
    assert main(['run', str(project_folder)]) == 0
    out = capsys.readouterr().out
    assert '3 runs, 0 to do' in out and 'check    ' not in out
    assert [path.stat().st_mtime for path in written] == times
    assert all(path.stat().st_mtime < began for path in results)


def test_the_first_screen_tells_the_networks(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = root.absolute()
    monkeypatch.chdir('/')
    definition = load_suite(root / 'suite.yaml')
    lines = '\n'.join(run_project.screen(definition))
    for word in ('student.py', 'teacher.py, trained here', 'kd, beside', '3 classes', '2 of 2 pictures', 'work'):
        assert word in lines
    assert definition.out == root / 'work', 'beside the definition, wherever the run is started'
    for name, score in (('control', 39.0), ('kd', 42.5)):
        write_result(definition.out / f'runs/{name}/seed0', score)
    write_result(definition.out / 'teacher', 50.0)
    lines = '\n'.join(run_project.score_lines(collect(definition)))
    assert '50.00  teacher' in lines and '39.00  the student alone\n' in lines and '42.50  kd (+3.50)' in lines


def hashes(root: Path) -> list[str]:
    definition = load_suite(root / 'suite.yaml')
    return [plan.hash_of(definition, run) for run in plan.runs(definition)]


def test_a_moved_project_keeps_its_results() -> None:
    """Also reached by a link. Without a folder for val, ``new`` writes the lists."""
    project_folder = project(splits=('train',))
    before = hashes(project_folder)
    Path('link').symlink_to(project_folder)
    assert hashes(Path('link')) == before
    moved = project_folder.rename('moved')
    assert hashes(moved) == before
    names = (moved / 'train.txt').read_text().split()
    (moved / 'train.txt').write_text('\n'.join([*names[1:], '']))
    assert not set(hashes(moved)) & set(before)


def test_an_old_page_is_written_anew(tmp_path: Path) -> None:
    page = tmp_path / 'report.html'
    assert not run_project.newer(page, tmp_path)
    page.touch()
    write_result(tmp_path / 'runs/kd/seed0', 1.0)
    os.utime(page, (1, 1))
    assert not run_project.newer(page, tmp_path)
    os.utime(page, (2**32, 2**32))
    assert run_project.newer(page, tmp_path)
    (tmp_path / 'runs.json').touch()
    os.utime(tmp_path / 'runs.json', (2**33, 2**33))
    assert not run_project.newer(page, tmp_path), 'a seed or a row has left'


def test_a_page_of_the_middle_is_older_than_any_result(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    definition = load_suite(root / 'suite.yaml')
    write_result(definition.out / 'runs/kd/seed0', 42.5)
    monkeypatch.setattr(run_project, 'make_report', lambda folders, page, **options: page.write_text(''))
    run_project._after_run(root, definition)
    assert not run_project.newer(root / 'report.html', definition.out)


@pytest.mark.parametrize('code', [0, 1, 130])
def test_a_page_is_written_once_all_is_trained(root: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    done: list[str] = []
    monkeypatch.setattr(run_project, 'train_all', lambda *_, **__: code)
    for name in ('_report', 'export_best'):
        monkeypatch.setattr(run_project, name, lambda *_: done.append('') or [])
    assert run_project.run_project(root) == code and len(done) == (0 if code else 2)


def test_what_the_page_leaves_out_is_printed(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = Section('predictions', 'Predictions', reasons=['the pictures are gone.'])
    monkeypatch.setattr(run_project, 'make_report', lambda *_, **__: (None, [section]))
    run_project._report(root, load_suite(root / 'suite.yaml'))
    assert 'report   left out, predictions: the pictures are gone.\n' in capsys.readouterr().out


def test_a_hardly_better_teacher_is_told_early(root: Path) -> None:
    definition = load_suite(root / 'suite.yaml')

    def finish(name: str, score: float) -> str:
        write_result(definition.out / name, score)
        return run_project.close_teacher(definition)

    assert not finish('teacher', 44.0)
    assert finish('runs/control/seed0', 40.2).startswith('WARNING  The teacher scores 44.00, the student alone 40.20')
    assert not finish('teacher', 44.2)
    assert finish('teacher', 44.0) and not finish('runs/kd/seed0', 41.0)


def test_the_best_student_is_exported(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    rows = list[str]()

    def export(config: Config, checkpoint: Path, out: Path) -> None:
        rows.append(f'{checkpoint.parents[1].name} {checkpoint.name}')
        out.touch()
        out.with_suffix('.py').touch()

    def finish(name: str, score: float) -> str:
        folder = definition.out / f'runs/{name}/seed0'
        write_result(folder, score)
        for file in ('iter_2.pth', *(('best_mIoU_iter_1.pth',) if name == 'kd' else ())):
            (folder / file).touch()
        return run_project.export_best(root, collect(definition))

    monkeypatch.setattr(run_project, 'export_student', export)
    definition = load_suite(root / 'suite.yaml')
    finish('control', 40.0)
    assert 'distilled by kd (seed 0, best on val, at its best validation: step 1)' in finish('kd', 45.0)
    assert rows == ['control iter_2.pth', 'kd best_mIoU_iter_1.pth'] and finish('kd', 45.0) and len(rows) == 2
    assert finish('kd', 46.0) and rows.pop(2) == 'kd best_mIoU_iter_1.pth', 'the run was repeated'
    assert 'trained alone (' in finish('control', 50.0) and rows[2:] == ['control iter_2.pth']
    os.utime(root / 'student.pth', (2e9, 2e9))
    assert 'distilled by kd' in finish('control', 30.0) and rows[3:] == ['kd best_mIoU_iter_1.pth'], 'newer, of another'
    for file in (*definition.out.rglob('*.pth'), root / 'student.py'):
        file.unlink()
    line = run_project.export_best(root, collect(definition))
    assert 'student  not written: kd cannot be exported: its weights are gone' in line
    assert main(['run', str(root), '--export', 'kdd']) == 2 and 'which has control, kd.' in capsys.readouterr().err


def test_the_price_is_told_before_it_is_paid(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial has none; a project that takes longer than a night names a length that fits."""
    monkeypatch.setattr(training_plan, 'time_training', time_training)
    assert not [*training_plan.price_lines(root)]
    for name in ('control.py', 'teacher.py'):
        (root / name).write_text((root / name).read_text().replace('max_iters=2', 'max_iters=5000'))
    (line,) = training_plan.price_lines(root)
    found = re.fullmatch(r'price    about (.+) here \(.+\), for 5000 steps each: teacher .+, control .+, kd (.+)', line)
    assert found and found[1] != found[2]
    monkeypatch.setattr(training_plan, 'time_training', lambda config: training_plan.Price(5000.0, 100.0))  # three
    monkeypatch.setattr(training_plan, 'NIGHT', 9300.0)
    assert '  more than a night: --iters 3000 takes about 2 h 35 min' in [*training_plan.price_lines(root)][1]


def test_a_second_run_in_a_folder_is_refused(tmp_path: Path) -> None:
    """The message came after minutes of loading, as a traceback."""
    (tmp_path / 'suite.yaml').touch()
    words = [sys.executable, '-X', 'importtime', '-m', 'mmdistill_dense', 'run', str(tmp_path)]
    with owned(tmp_path, 'x'):
        done = subprocess.run(words, env=environment(), capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if not line.startswith('import time:')]
    message = f'in {tmp_path}, as process {os.getpid()} on {socket.gethostname()}: wait, or end it.'
    assert done.returncode == 2 and lines == [f'ERROR    this project already runs {message}']
    assert '| torch' not in done.stderr
