"""A newcomer's walk: the guides' own files and commands, one after the other, shortened."""

from pathlib import Path

import pytest

from mmdistill_dense.config.resolve import load_model
from tests import notebook
from tests.docs_run import CLONE, PROJECT, make_pictures, run_notebook, walk

pytestmark = pytest.mark.soak


def plain() -> str:
    """The arguments of a dict: a student of mmseg for three classes."""
    classes = dict(num_classes=3)
    option = dict(
        cfg='mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py', data_preprocessor=dict(size=(512, 512))
    )
    model = load_model(dict(option, decode_head=classes, auxiliary_head=classes), 'model').model
    return ', '.join(f'{key}={value!r}' for key, value in model.to_dict().items())


def test_own_data_own_pair_own_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the reader has already is written first: pictures, a student that trains, a teacher's weights."""
    make_pictures(tmp_path / 'data/leaves')
    monkeypatch.delenv('MMDISTILL_DATA', raising=False)
    (tmp_path / 'my_student.py').write_text(
        f"_base_ = './my_pair_control.py'\nmodel = dict({plain()}, _delete_=True)\n"
    )
    (tmp_path / 'my_teacher.pth').symlink_to('work_dirs/my_teacher/iter_40000.pth')
    done = walk(PROJECT, tmp_path)
    assert len([line for line in done if ' train ' in line]) >= 4
    assert (tmp_path / 'work_dirs/my_energy/iter_40000.pth').is_file()


@pytest.mark.parametrize('guide', CLONE)
def test_commands_of_a_guide_in_a_clone(guide: str, tmp_path: Path) -> None:
    assert walk((guide,), tmp_path)


def test_the_tutorial_from_folder_to_report(tmp_path: Path) -> None:
    outputs = run_notebook(tmp_path)
    stored = [cell['outputs'] for cell in notebook.read()['cells'] if cell['cell_type'] == 'code']
    assert [[one['output_type'] for one in some] for some in outputs] == [
        [one['output_type'] for one in some] for some in stored
    ]
    assert (tmp_path / 'distil_mine/report.html').is_file() and (tmp_path / 'distil_mine/student_pcd.py').is_file()
    assert notebook.NOTEBOOK.stat().st_size < 300_000
