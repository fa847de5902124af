"""A config that inherits a ready one: it neither writes over the other's run nor trains its methods unsaid."""

from pathlib import Path
from unittest import mock

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmdistill_dense.__main__ import main
from mmdistill_dense.config.resolve import inherited_distillers
from mmdistill_dense.engine import work_folder
from mmdistill_dense.engine.work_folder import folder_of
from tests import toys
from tests.gloo import join, start

SWAP = "_base_ = 'base.py'\nmodel = dict(distillers=dict({}cwd=dict(type='CWD')))\n"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A config with two distillers of a fragment, and its run of one iteration."""
    model = dict(type='mmdistill_dense.DistillModel', student=toys.seg_net(), teacher=toys.seg_teacher(), distillers={})
    toys.run_config(tmp_path / 'work', model, iters=2).dump(tmp_path / 'recipe.py')
    (tmp_path / 'fragment.py').write_text("distillers = {'kd': dict(type='LogitKD'), 'at': dict(type='AT')}\n")
    path = tmp_path / 'base.py'
    path.write_text("_base_ = ['recipe.py', 'fragment.py']\nmodel = dict(distillers=_base_.distillers)\n")
    return path


def run(path: Path, **changes: object) -> Runner:
    config = Config.fromfile(path)
    config.merge_from_dict(changes)
    runner = Runner.from_cfg(config)
    runner.train()
    return runner


def test_the_run_of_another_config_is_not_written_over(base: Path) -> None:
    run(base)
    file = base.parent / 'work/iter_2.pth'
    before = file.read_bytes()
    child = base.parent / 'mine.py'
    child.write_text(SWAP.format('_delete_=True, '))
    told = r"holds iter_2.pth of base.py, which this run of mine.py would .*work_dir='work_dirs/mine' in mine.py"
    with pytest.raises(ValueError, match=told):
        run(child)
    assert file.read_bytes() == before
    assert list(run(child, work_dir=str(base.parent / 'other')).model.distillers) == ['cwd']


def start_in_both(rank: int, folder: str, file: str) -> None:
    """Say in each process what it read of the checkpoint, and how it was refused."""
    place, read = join(rank, folder, ''), work_folder.read_checkpoint
    found: list[object] = []
    work_folder.read_checkpoint = lambda *args, **more: found.append([*args, more]) or read(*args, **more)
    config = mock.MagicMock(filename=file)
    runner = mock.Mock(work_dir=str(place / 'work'), cfg=config, _resume=False)
    with pytest.raises(ValueError, match='of base.py, which this run of mine.py'):
        work_folder.refuse_another_run(runner)
    assert len(found) == (rank == 0)
    (place / f'refused{rank}').touch()


def test_one_process_reads_for_all_and_leaves_the_tensors_on_the_disk(tmp_path: Path) -> None:
    file, value = tmp_path / 'work/iter_2.pth', torch.full((999,), 7.0)
    file.parent.mkdir()
    torch.save({'meta': {'experiment_name': 'base_20260101_000000'}, 'state_dict': {'a': value}}, file)
    raw = file.read_bytes()
    assert raw.count(value.numpy().tobytes()) == 1
    file.write_bytes(raw.replace(value.numpy().tobytes(), bytes(4 * 999)))  # its sum no longer fits
    start(start_in_both, str(tmp_path), 'mine.py')
    assert {path.name for path in tmp_path.glob('refused*')} == {'refused0', 'refused1'}


def test_other_runs_are_let_be(base: Path) -> None:
    """Of the same file, which begins again and goes on; with a name of its own; beside a damaged checkpoint."""
    run(base)
    run(base)
    run(base, resume=True, **{'train_cfg.max_iters': 3})
    run(base, experiment_name='again')
    for file in (base.parent / 'work').glob('*.pth'):
        file.write_bytes(file.read_bytes().replace(b'experiment_name', b'experiment_\xff\xff\xff\xff'))
    run(base.rename(base.parent / 'renamed.py'))


@pytest.mark.parametrize(('text', 'found'), [
    (SWAP.format(''), {'kd': 'fragment.py', 'at': 'fragment.py'}),
    (SWAP.format('_delete_=True, '), {}),
    ("_base_ = 'base.py'\nmodel = {'distillers': {'kd': {'temperature': 2}}}\n", {}),
    ("_base_ = 'base.py'\n", {}),
])  # fmt: skip
def test_distillers_that_are_trained_beside_ones_own_are_said(
    text: str, found: dict, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    child = base.parent / 'mine.py'
    child.write_text(text)
    assert inherited_distillers(child, list(Config.fromfile(child).model.distillers)) == found
    run(child, work_dir=str(base.parent / 'mine'), log_level='WARNING', **{'train_cfg.max_iters': 1})
    said = [one for one in capsys.readouterr().out.splitlines() if 'model.distillers: beside' in one]
    assert bool(said) == bool(found)
    if 'cwd' in text and said:
        assert 'beside cwd of mine.py, the run trains what it inherits: kd (of fragment.py), at' in said[0]


@pytest.mark.parametrize(('base', 'own', 'folder'), [
    ("work_dir = 'runs/{{ fileBasenameNoExtension }}'", '', 'runs/mine'),
    ("work_dir = 'runs/{{ fileBasenameNoExtension }}'", "work_dir = 'runs/base'", 'runs/base'),
    ("work_dir = 'here'", '', 'here'),
    ('', '', 'work_dirs/mine'),
])  # fmt: skip
def test_an_inherited_folder_follows_the_file_that_is_run(tmp_path: Path, base: str, own: str, folder: str) -> None:
    (tmp_path / 'base.py').write_text(f'x = 1\n{base}\n')
    (tmp_path / 'between.py').write_text("_base_ = 'base.py'\n")
    (tmp_path / 'mine.py').write_text(f"_base_ = 'between.py'\n{own}\n")
    assert folder_of(Config.fromfile(tmp_path / 'mine.py')) == folder


def test_train_swaps_beside_the_run_of_the_base(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(base.parent)
    with base.open('a') as file:
        file.write("work_dir = 'runs/{{ fileBasenameNoExtension }}'\n")
    (base.parent / 'mine.py').write_text(SWAP.format('_delete_=True, '))
    for name in ('base', 'mine'):
        assert not main(['train', f'{name}.py'])
    assert sorted(path.parent.name for path in Path('runs').glob('*/iter_2.pth')) == ['base', 'mine']
    assert not main(['train', 'mine.py', '--cfg-options', 'work_dir=runs/own'])
    assert Path('runs/own/iter_2.pth').is_file()
