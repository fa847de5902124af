"""A known mistake of a run is the last thing on the screen, whatever started it."""

import linecache
import logging
import os
import runpy
import subprocess
import sys
from pathlib import Path

import mmseg
import pytest
from torch.utils.data import DataLoader, Dataset

import mmdistill_dense
from mmdistill_dense.__main__ import main
from mmdistill_dense.config.unknown_keys import check_known
from mmdistill_dense.utils.last_word import known_mistake
from mmdistill_dense.utils.validate import counted
from tests.engine.processes import environment
from tests.gloo import start

POOLED = """_base_ = '{}'
head = dict(_delete_=True, type='ASPPHead', in_channels=64, channels=16, dilations=(1, 2), num_classes=7, norm_cfg=_base_.norm)
model = dict(decode_head=head)
train_dataloader = dict(batch_size=1)
default_hooks = dict(distill=dict(type='mmdistill_dense.DistillHook'))
"""  # noqa: E501
BATCH = 'train_dataloader.batch_size=1: a batch norm behind global pooling'


@pytest.fixture(scope='module')
def pooled(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('pooled') / 'pooled.py'
    path.write_text(POOLED.format(tiny_config))
    return path


SCRIPT = str(Path(mmseg.__path__[0], '.mim/tools/train.py'))


def as_python_does(_: int, folder: str, *words: str) -> None:
    """Run a script in a folder. A file there gets its output, and what Python prints of its error."""
    os.chdir(folder)
    output = os.open('said.txt', os.O_CREAT | os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.argv = [*words]
    try:
        runpy.run_path(words[0], run_name='__main__')
    except BaseException:
        sys.excepthook(*sys.exc_info())


def test_the_library_s_script_ends_with_the_sentence(pooled: Path, tmp_path: Path) -> None:
    """As ``mim train mmseg`` calls it."""
    start(as_python_does, str(tmp_path), SCRIPT, str(pooled), processes=1)
    said = (tmp_path / 'said.txt').read_text()
    assert said.rstrip().splitlines()[-1].startswith(f'ERROR    {BATCH}')
    assert said.rindex(BATCH) > said.rindex('Traceback')


@pytest.mark.soak
def test_torchrun_s_own_box_behind_it_holds_the_sentence(pooled: Path, tmp_path: Path) -> None:
    words = ['-m', 'torch.distributed.run', '--standalone', SCRIPT, str(pooled), '--launcher', 'pytorch']
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300
    )
    before, _, box = done.stderr.partition('ChildFailedError')
    assert done.returncode and 'Traceback' in before and BATCH in before and BATCH in box


@pytest.mark.parametrize(('option', 'told'), [
    ('default_hooks.distill.nothing=1', "default_hooks.distill has no option 'nothing'"),
    ('load_from=nowhere.pth', 'nowhere.pth can not be found'),
])  # fmt: skip
def test_train_prints_one_line(pooled: Path, tmp_path, monkeypatch, capsys, option: str, told: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging, 'raiseExceptions', False)  # loggers of earlier tests hold streams that are closed
    assert main(['train', str(pooled), '--cfg-options', option]) == 2
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith('ERROR')]
    assert len(lines) == 1 and told in lines[0] and 'Traceback' not in said


def raised(act) -> BaseException:
    with pytest.raises(BaseException) as found:
        act()
    return found.value


def wrapped() -> None:
    try:
        check_known('key', {'wrong': 1}, ['right'])
    except TypeError as error:
        raise RuntimeError('class `X` in mmseg/x.py: …') from error


def hidden() -> None:
    try:
        check_known('key', {'wrong': 1}, ['right'])
    except TypeError:
        raise RuntimeError('another') from None


def inside(line: str) -> None:
    """Run a line as if it stood in the package."""
    name = f'{mmdistill_dense.__path__[0]}/made_up.py'
    linecache.cache[name] = (len(line), None, [line], name)
    exec(compile(line, name, 'exec'))


class Broken(Dataset):
    """A data set whose pictures end in an error: of this package, or of Python inside of it."""

    def __init__(self, ours: bool) -> None:
        self.ours = ours

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        if self.ours:
            check_known('key', {'wrong': 1}, ['right'])
        counted(object())


@pytest.mark.parametrize('ours', [True, False])
def test_what_a_reading_process_says_is_known_as_well(ours: bool) -> None:
    pictures = iter(DataLoader(Broken(ours), num_workers=1))
    error = raised(lambda: next(pictures))
    pictures._shutdown_workers()  # within a cycle of garbage, torch waits 5 s for the worker
    assert 'DataLoader worker process' in str(error)
    assert known_mistake(error) == ("key has no option 'wrong'; known: right." if ours else '')


def test_what_this_package_raises_is_known_and_nothing_else() -> None:
    assert "key has no option 'wrong'" in known_mistake(raised(lambda: check_known('key', {'wrong': 1}, ['right'])))
    assert "key has no option 'wrong'" in known_mistake(raised(wrapped))
    assert not known_mistake(raised(hidden))
    assert not known_mistake(raised(lambda: counted(object())))  # int() raises inside a function of the package
    assert not known_mistake(ValueError('never raised'))
    assert known_mistake(raised(lambda: inside('raise ValueError("user")'))) == 'user'
    assert not known_mistake(raised(lambda: inside('raise ValueError(None.name)'))), 'a bug of the message itself'
