"""benchmarks/gpu_day.sh: one deadline, the most important parts first, one file that is right at any second."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu_day
from benchmarks.gpu_day import CUT, LEFT_OUT, Day, Part
from tests.tools.measured import ROWS, WORDS
from tools.benchmark import command

ROOT = Path(gpu_day.__file__).parents[1]
MEASURE = (
    'import json, pathlib, sys, time; name, seconds, folder = sys.argv[1:];'
    'pathlib.Path(folder, name + ".json").write_text(json.dumps(dict(markdown=name, figures={})));'
    'print("measured", name, flush=True); time.sleep(float(seconds))'
)


def part(folder: Path, name: str, seconds: float = 0, limit: float = 30) -> Part:
    """A part that writes its section at once, and then lasts some seconds."""
    return Part(name, limit, [sys.executable, '-S', '-c', MEASURE, name, str(seconds), str(folder)])


def day_of(folder: Path, seconds: float) -> Day:
    (folder / 'out').mkdir()
    (folder / 'work').mkdir()
    return Day(folder / 'out', folder / 'work', time.time() + seconds)


def summary_of(folder: Path) -> dict:
    return json.loads((folder / 'out/gpu_day.json').read_text())


def test_steps_come_first_within_the_deadline(tmp_path: Path) -> None:
    groups = list(gpu_day.phases(tmp_path, tmp_path, 'cuda', short=False))
    names = [[part.name.partition('_')[0] for part in group] for group in groups]
    assert names[:4] == [['step']] * 4 and {*names[4]} == {'methods'} and names[5:7] == [['step'], ['losses']]
    assert {*names[7]} == {'camvid', 'pretrain'}
    assert sum(max(part.limit for part in group) for group in groups[:-1]) <= gpu_day.SECONDS, (
        'the rest gets what is left'
    )
    assert all(len(group) < gpu_day.FILES for group in groups[:-1])


def test_the_deadline_leaves_parts_out(tmp_path: Path) -> None:
    day, out = day_of(tmp_path, 1.8), tmp_path / 'out'
    day.run([part(out, 'short', limit=1.5), part(out, 'limited', 60, limit=0.5)])
    day.run([part(out, 'long', 60)])
    day.run([part(out, 'late')])
    assert time.time() < day.deadline + 5
    rows = summary_of(tmp_path)['parts']
    assert [(name, row['status']) for name, row in rows.items()] == [
        ('short', 0), ('limited', CUT), ('long', CUT), ('late', LEFT_OUT)
    ]  # fmt: skip
    assert rows['long']['markdown'] == 'long' and rows['long']['log'] == 'measured long\n', 'what was measured stays'


def test_few_files_are_in_the_folder_at_any_time(tmp_path: Path) -> None:
    day, out = day_of(tmp_path, 60), tmp_path / 'out'
    for number in range(3):
        day.run([part(out, f'{number}_{index}') for index in range(3)])
        assert len([*out.iterdir()]) <= gpu_day.FILES
    summary = summary_of(tmp_path)
    assert len(summary['parts']) == 9 and all(row['markdown'] == name for name, row in summary['parts'].items())
    assert summary['code'] == gpu_day.code_digest() and summary['began'] and summary['commit']


def test_rows_with_errors_are_no_success() -> None:
    failed = Part(
        'methods_seg',
        1,
        [],
        status=0,
        section={'figures': {'kd:a': {'difference': 0}, 'cwd:a': {'error': 'no kernel'}}},
    )
    assert not failed.whole and 'errors in cwd:a' in str(failed)
    failed.section['figures'].pop('cwd:a')
    assert failed.whole
    losses = Part('losses', 1, [], status=0, section={'figures': [{'method': 'kd', 'name': 'scores'}]})
    assert losses.whole
    losses.section['figures'].append({'method': 'cwd', 'name': 'maps', 'error': 'no kernel'})
    assert losses.errors == ['cwd maps']


def test_a_stop_of_the_look_ups_leaves_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        assert json.loads((tmp_path / 'gpu_day.json').read_text())['parts'] == {}
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(gpu_day, 'check_names', stop)
    monkeypatch.setenv('SHORT', '1')
    assert gpu_day.main(tmp_path) == 130 and (tmp_path / 'gpu_day.json').exists()


READY = (ROOT / 'benchmarks/gpu_day.sh').read_text().partition("<<'END'\n")[2].partition('\nEND\n')[0]


@pytest.mark.parametrize(
    ('device', 'fault', 'message'),
    [('cpu', '', 0), ('cpu', 'CUDA error: no kernel image\nhint', 'no kernel runs on cpu: CUDA error: no kernel image'),
     ('meta', '', 'no kernel runs on meta')],
)  # fmt: skip
def test_ready_starts_kernels(device: str, fault: str, message: str | int, monkeypatch: pytest.MonkeyPatch) -> None:
    def nms(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> tuple[None, torch.Tensor]:
        if fault:
            raise RuntimeError(fault)
        return None, torch.tensor([0])

    for name in ('mmcv', 'mmcv.ops', 'mmseg', 'mmdet'):  # their imports take seconds
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(nms=nms))
    monkeypatch.setenv('DEVICE', device)
    with pytest.raises(SystemExit) as end:
        exec(READY, {})
    assert end.value.code == message or str(end.value.code).startswith(str(message))


@pytest.mark.parametrize('kind', ROWS)
def test_a_failing_method_ends_its_row_alone(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError('no kernel\nhint')

    row, module, function = ROWS[kind]
    outcomes = [fail, lambda *_: row]
    monkeypatch.setattr(command.torch, 'set_num_threads', lambda threads: None)
    monkeypatch.setattr(module, function, lambda *words: outcomes.pop(0)(*words) if outcomes else row)
    assert command.main([kind, *WORDS[kind], '--device', 'cpu', '--json', str(tmp_path)]) == 1
    (file,) = tmp_path.iterdir()
    section = json.loads(file.read_text())
    part = Part(kind, 1, [], status=0, section=section)
    assert (
        len(section['figures']) > len(part.errors) == 1 and '| RuntimeError: no kernel hint | –' in section['markdown']
    )


FAKE = f"""#!{sys.executable} -S
import json, os, pathlib, shutil, sys, time
words = sys.argv[1:]
if words[:1] == ['-']:
    text = sys.stdin.read()
    if 'import torch' in text:
        sys.exit(os.environ.get('UNREADY', 0))
    os.execv({sys.executable!r}, [{sys.executable!r}, '-c', text, *words[1:]])
if words[1:3] == ['pip', 'wheel']:
    time.sleep(60 if os.environ.get('LASTS') else 0)
    shutil.copy(pathlib.Path(words[-1], 'build/unit.o'), pathlib.Path(words[-2], 'onedl_mmcv-1.whl'))
if '--json' in words:
    kind, name = words[1], words[words.index('--name') + 1] if '--name' in words else 'losses'
    name = f'step_{{name}}' if kind == 'step' else name
    section = json.dumps(dict(markdown=name, figures={{}}))
    pathlib.Path(words[words.index('--json') + 1], name + '.json').write_text(section)
    time.sleep(60 if name == os.environ.get('LASTS') else 0)
sys.exit(name == os.environ.get('FAILS') if '--json' in words else 0)
"""


def call(folder: Path, **environment: str) -> subprocess.Popen[str]:
    """Start the script with a stand-in for python3, which measures in no time."""
    (folder / 'bin').mkdir(exist_ok=True)
    (folder / 'bin/python3').write_text(FAKE)
    (folder / 'bin/python3').chmod(0o755)
    variables = {**os.environ, 'PATH': f'{folder / "bin"}:{os.environ["PATH"]}', 'DEVICE': 'cuda', **environment}
    words = ['bash', ROOT / 'benchmarks/gpu_day.sh', folder / 'out', folder / 'nothing']
    return subprocess.Popen(words, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize('number', [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.soak)])
def test_a_signal_leaves_what_was_measured(tmp_path: Path, number: int) -> None:
    process = call(tmp_path, ONLY='step_seg step_det losses', LASTS='step_det')
    limit = time.monotonic() + 60
    while not (tmp_path / 'out/step_det.json').exists() and time.monotonic() < limit:
        time.sleep(0.05)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and 'stopped' in output
    rows = summary_of(tmp_path)['parts']
    assert {name: row['status'] for name, row in rows.items()} == {'step_seg': 0, 'step_det': 'stopped'}
    assert rows['step_det']['markdown'] == 'step_det'
    assert [file.name for file in (tmp_path / 'out').iterdir()] == ['gpu_day.json']
    again = call(tmp_path)
    assert 'holds results of an earlier call' in again.communicate(timeout=60)[0] and again.returncode == 2


def test_a_failed_part_is_told_by_the_status(tmp_path: Path) -> None:
    process = call(tmp_path, ONLY='step_seg losses pretrain_pcd', FAILS='losses')
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and 'not whole: losses: status 1' in output
    rows = summary_of(tmp_path)['parts']
    assert {name for name, row in rows.items() if row['status'] != 0} == {'losses'} and len(rows) == 3


@pytest.mark.parametrize(
    ('seconds', 'status', 'name'),
    [('60', 0, 'onedl_mmcv-1.whl'), pytest.param('41', 124, 'half_build.tgz', marks=pytest.mark.soak)],
)
def test_a_build_comes_back_in_pieces(seconds: str, status: int, name: str, tmp_path: Path) -> None:
    source, carried = tmp_path / 'onedl_mmcv-1', tmp_path / 'nothing/mmcv'
    for folder in (source / 'build', carried):
        folder.mkdir(parents=True)
    (source / 'build/unit.o').write_bytes(random.Random(0).randbytes(16 << 20))
    subprocess.run(['tar', '-czf', carried / 'onedl_mmcv-1.tar.gz', '-C', tmp_path, source.name], check=True)
    variables = {'SECONDS_IN_ALL': seconds, 'MMCV_BUILD': str(tmp_path / 'build'), 'LASTS': 'build' if status else ''}
    process = call(tmp_path, TORCH_CUDA_ARCH_LIST='9.0', **variables)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == status and f'bytes of {name}' in output, output
    pieces = sorted((tmp_path / 'out').iterdir())
    assert [piece.name for piece in pieces] == [f'{name}.aa', f'{name}.ab']
    assert all(piece.stat().st_size < 16 << 20 for piece in pieces)


@pytest.mark.soak
def test_without_the_gpu_nothing_begins(tmp_path: Path) -> None:
    process = call(tmp_path, UNREADY='no GPU', CUDA_VISIBLE_DEVICES='')
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2 and 'no GPU' in output and not [*(tmp_path / 'out').iterdir()]


@pytest.mark.soak
def test_every_method_of_the_tables_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_day.check_names()
    for table, name, row in (
        (gpu_day.STEPS, 'seg', ('deeplabv3_r101_to_r18_cityscapes', '', 2, 'kd cwdd')),
        (gpu_day.METHODS, 'det_1', ([gpu_day.DET], 'kd fgdd')),
        (gpu_day.METHODS, 'det_1', ([gpu_day.DET], 'kd ld')),  # a method, but not of this pair
    ):
        with monkeypatch.context() as changed, pytest.raises((KeyError, ValueError), match='cwdd|fgdd|ld'):
            changed.setitem(table, name, row)
            gpu_day.check_names()
