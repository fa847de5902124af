"""A config that is no Python: the error names the file, which may be one of several bases."""

from pathlib import Path

import pytest

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.recipes.named import read_config
from mmdistill_dense.config.resolve import broken_file, load_model, read_file

BROKEN = 'x = 1\nmodel = dict(\n'
WRITTEN = {
    'the file itself': {'leaf.py': BROKEN},
    'a base': {'leaf.py': "_base_ = ['good.py', 'bad.py']\n", 'good.py': 'y = 1\n', 'bad.py': BROKEN},
    'a base of a base': {'leaf.py': "_base_ = 'middle.py'\n", 'middle.py': "_base_ = 'bad.py'\n", 'bad.py': BROKEN},
    'the leaf with a base': {'leaf.py': f"_base_ = 'good.py'\n{BROKEN}", 'good.py': 'y = 1\n'},
}


@pytest.mark.parametrize('case', WRITTEN)
def test_the_broken_file_is_named(tmp_path: Path, case: str) -> None:
    for name, text in WRITTEN[case].items():
        (tmp_path / name).write_text(text)
    bad, line = tmp_path / ('bad.py' if 'bad.py' in WRITTEN[case] else 'leaf.py'), 3 if 'leaf' in case else 2
    with pytest.raises(ValueError, match=f"{bad}: line {line} is no Python: '\\(' was never closed"):
        read_config(tmp_path / 'leaf.py')
    with pytest.raises(ValueError, match=f'{bad}: line {line} is no Python'):
        load_model(dict(cfg=str(tmp_path / 'leaf.py')), 'model.student')


def test_a_broken_module_that_a_config_imports_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has its name already."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'own_networks_with_a_fault.py').write_text(BROKEN)
    (tmp_path / 'leaf.py').write_text("custom_imports = dict(imports=['own_networks_with_a_fault'])\n")
    with pytest.raises(ValueError, match=f'{tmp_path}/own_networks_with_a_fault.py: line 2 is no Python'):
        read_file(tmp_path / 'leaf.py')


def test_a_text_without_file_has_none() -> None:
    with pytest.raises(SyntaxError) as caught:
        compile(BROKEN, '<text>', 'exec')
    assert broken_file(caught.value) is None


def test_the_command_names_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / 'config.py').write_text("_base_ = ['bad.py']\n")
    (tmp_path / 'bad.py').write_text(BROKEN)
    assert main(['check', str(tmp_path / 'config.py')]) == 2
    told = capsys.readouterr().err
    assert 'bad.py: line 2 is no Python' in told and '<unknown>' not in told
