"""Which files make a run beside its config, and that each of them counts."""

import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from mmdistill_dense.config import local_code as code
from mmdistill_dense.registry import TRANSFORMS

FILES = {
    'kdlab/__init__.py': 'VERSION = 1\n',
    'kdlab/losses.py': 'import torch, mmseg, mmdistill_dense\nfrom .math_ops import power\nfrom . import tables\n',
    'kdlab/math_ops.py': 'def power():\n    import kdlab_deep.constants as numbers\n    return numbers\n',
    'kdlab/tables.py': 'ROWS = 2\n',
    'kdlab/unused.py': 'UNUSED = 3\n',
    'kdlab_deep/constants.py': 'FACTOR = 4\n',  # of a folder without __init__
    'kdlab_data.py': 'class Blur:\n    pass\n',
    'losses.py': 'SAME_NAME = 5\n',
    'lib/site-packages/kdlab_installed.py': 'INSTALLED = 6\n',
}
IMPORTED = ['kdlab/__init__.py', 'kdlab/losses.py', 'kdlab/math_ops.py', 'kdlab/tables.py', 'kdlab_deep/constants.py']
IMPORTS = dict(imports=['mmdistill_dense.engine.launch', 'kdlab.losses', 'kdlab_installed', 'kdlab_missing'])


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / 'lib/site-packages'))
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def digits(**options: object) -> dict[str, str]:
    """As a process that begins now sees them."""
    code._read_module.cache_clear()
    return code.local_code(Config(options))


def test_local_modules_count_with_what_they_import(project: Path) -> None:
    actual = digits(custom_imports=IMPORTS)
    assert list(actual) == IMPORTED and len({*actual.values()}) == len(IMPORTED)
    assert not {name for name in sys.modules if name.startswith('kdlab')}, 'nothing is imported for this'
    assert digits(custom_imports=dict(imports='kdlab_data')) == digits(hook=[dict(type='kdlab_data.Blur')]) != {}
    assert digits() == digits(custom_imports=None) == digits(model=dict(type='ResNet'), custom_imports=dict()) == {}


@pytest.mark.parametrize('name', IMPORTED)
def test_each_file_is_named_when_it_changes(project: Path, name: str) -> None:
    before, file = digits(custom_imports=IMPORTS), project / name
    file.write_text(f'{file.read_text()}CHANGED = 7\n')
    current = digits(custom_imports=IMPORTS)
    assert code.changed_files(before, current) == [name] and code.changed_files(None, current) == []


@pytest.mark.parametrize('name', sorted({*FILES} - {*IMPORTED}))
def test_other_files_and_line_ends_are_no_part_of_a_run(project: Path, name: str) -> None:
    before, file = digits(custom_imports=IMPORTS), project / 'kdlab/math_ops.py'
    (project / name).write_text('CHANGED = 7\n')
    assert digits(custom_imports=IMPORTS) == before, 'another file'
    file.write_bytes(file.read_bytes().replace(b'\n', b'\r\n'))
    assert digits(custom_imports=IMPORTS) == before


def test_code_of_a_network_in_a_file_counts(project: Path) -> None:
    network = project / 'network.py'
    network.write_text("model = dict(type='kdlab_data.Blur')\n")
    for part in (dict(student=dict(cfg=str(network))), dict(student={}, teacher=dict(a=dict(cfg=str(network))))):
        assert list(digits(model=dict(type='DistillModel', **part))) == ['kdlab_data.py']


def test_a_network_below_the_home_folder_counts(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config of a package does not."""
    monkeypatch.setenv('HOME', str(project))
    (project / 'network.py').write_text("model = dict(type='kdlab_data.Blur')\n")
    for name, actual in (('~/network.py', project / 'network.py'), ('~/none.py', None), ('mmseg::fcn/x', None)):
        assert code.own_config(dict(cfg=name)) == actual
        model = dict(type='DistillModel', student=dict(cfg=name))
        assert list(digits(model=model)) == (['kdlab_data.py'] if actual else [])


def test_code_of_a_registered_step_is_in_a_data_set(project: Path) -> None:
    import kdlab_data

    TRANSFORMS.register_module('KdlabBlur', module=kdlab_data.Blur)
    try:
        code._read_module.cache_clear()
        dataset = dict(type='RepeatDataset', dataset=dict(type='A', pipeline=[dict(type='mmdistill_dense.KdlabBlur')]))
        assert list(code.code_of_dataset(dataset)) == list(digits(data=dataset)) == ['kdlab_data.py']
        assert list(digits(hook=dict(type='KdlabBlur'))) == ['kdlab_data.py'], 'by its bare name'
        assert digits(hook=[dict(type=1), dict(type=None), dict(type=['KdlabBlur'])]) == {}
        assert code.code_of_dataset(dict(type='CityscapesDataset', pipeline=[dict(type='Resize')])) == {}
    finally:
        TRANSFORMS._module_dict.pop('KdlabBlur')
        sys.modules.pop('kdlab_data')
