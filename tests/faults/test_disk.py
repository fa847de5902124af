"""A disk that is full and folders that cannot be made: what was written before stays whole, and the run goes on from
it."""

import re
from pathlib import Path

import pytest
import torch

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.export import export_student
from mmdistill_dense.utils.files import save_whole, write_whole
from mmdistill_dense.weights.strict_load import read_checkpoint
from tests import toys
from tests.distillers.maskd.tokens import seg_model, token_files, tokens_of
from tests.faults.tools import content, full_disk, log_of
from tests.suite import tiny

FREE = 100_000  # bytes: enough for logs and configs, too few for a checkpoint
KEEP_ONE = dict(default_hooks=dict(checkpoint=dict(max_keep_ckpts=1)), log_level='WARNING')


def pair() -> dict:
    return toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), dict(mimic=dict(type='MaskedMimic')))


def test_training_goes_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    """Even where one is to be kept, which mmengine removes before it writes the next."""
    broken, healthy = tmp_path / 'broken', tmp_path / 'healthy'
    toys.train(healthy, pair(), iters=4)
    toys.train(broken, pair(), iters=2, **KEEP_ONE)
    with full_disk(FREE), pytest.raises(OSError):
        toys.train(broken, pair(), iters=4, resume=True, **KEEP_ONE)
    assert (broken / 'iter_4.pth').stat().st_size == FREE
    assert Path((broken / 'last_checkpoint').read_text()).name == 'iter_2.pth'
    assert 'max_keep_ckpts=1 removes the last checkpoint before it writes the next' in log_of(broken)
    with pytest.raises(ValueError, match=r'iter_4\.pth.*no readable checkpoint'):
        read_checkpoint(broken / 'iter_4.pth')
    toys.train(broken, pair(), iters=4, resume=True, **KEEP_ONE)
    assert not toys.differing(content(broken / 'iter_4.pth'), content(healthy / 'iter_4.pth'))


@pytest.mark.soak
def test_token_learning_leaves_no_half_file(tmp_path: Path) -> None:
    learn = dict(max_iters=4, save_interval=2, log_interval=4)
    model = seg_model(dict(type='MasKD', student_tap='backbone[3]', num_tokens=40, weight_mask=False, learn=learn))
    with full_disk(20_000), pytest.raises(OSError, match=r'nothing was written: .*maskd_tokens'):
        toys.train(tmp_path / 'broken', model, iters=1)
    assert token_files(tmp_path / 'broken') == []
    tokens = [tokens_of(toys.train(tmp_path / name, model, iters=1)) for name in ('broken', 'healthy')]
    assert not toys.differing(*tokens)


def test_a_suites_folder_that_is_a_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tiny.write(tmp_path, iters=4)
    (tmp_path / 'out').write_text('a file')
    assert main(['suite', 'run', str(path)]) == 2
    assert re.search(r"^ERROR .*'out'", capsys.readouterr().err)


def test_a_file_of_a_tool_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / 'page.html'
    write_whole(path, b'old')
    with full_disk(1000), pytest.raises(OSError, match=r'nothing was written: .*page\.html'):
        write_whole(path, b'x' * 2000)
    with full_disk(1000), pytest.raises(OSError, match=r'nothing was written: .*page\.html'):
        save_whole(torch.zeros(2000), path)
    assert path.read_bytes() == b'old' and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('name', ['student.pth', 'student.safetensors'])
def test_an_export_is_whole_or_the_old_one(tmp_path: Path, name: str) -> None:
    config = toys.run_config(tmp_path, toys.seg_net('fcn', width=16))
    checkpoint = toys.teacher_file('fcn')
    out, _ = export_student(config, checkpoint, tmp_path / name)
    before = out.read_bytes()
    with full_disk(FREE), pytest.raises(OSError, match=f'nothing was written: .*{name}'):
        export_student(config, checkpoint, out)
    assert out.read_bytes() == before


@pytest.mark.parametrize('place', ['file', 'file/below'])
def test_a_work_folder_that_cannot_be_made_stops_at_the_start(tmp_path: Path, place: str) -> None:
    (tmp_path / 'file').write_text('in the way')
    with pytest.raises(OSError, match=rf'(exists|Not a directory).*{place}'):
        toys.make_runner(tmp_path / place, pair(), iters=1)


def test_an_export_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('in the way')
    with pytest.raises(OSError, match='file'):
        export_student(
            toys.run_config(tmp_path, toys.seg_net('fcn', width=16)), toys.teacher_file('fcn'), tmp_path / 'file/a.pth'
        )
