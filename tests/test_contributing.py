"""The five steps of CONTRIBUTING, done in a copy of the tree: the method is everywhere, with no other file edited."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8')
TOUCHED = {
    'mmdistill_dense/distillers/energy.py', 'mmdistill_dense/distillers/__init__.py', 'docs/methods/energy.md',
    'configs/_base_/distillers/energy_seg.py', 'tests/distillers/test_energy.py',
}  # fmt: skip


def blocks() -> dict[str, str]:
    """The files of the guide by their name, which stands in their first line."""
    found = {}
    for block in re.findall(r'```(?:python|markdown)\n(.*?)```', TEXT, re.DOTALL):
        first, _, rest = block.partition('\n')
        name = re.fullmatch(r'(?:# |<!-- )(\S+/\S+?)(?: -->)?', first)
        if name:
            found[name[1]] = rest
        else:
            found['mmdistill_dense/distillers/__init__.py'] = f'{first}\n{rest}'
    return found


@pytest.fixture(scope='module')
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with the method of the guide."""
    folder = tmp_path_factory.mktemp('contributing')
    for name in ('mmdistill_dense', 'configs', 'docs', 'tools', 'tests'):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('model-index.yml', 'setup.cfg'):
        shutil.copy(ROOT / name, folder / name)
    files = blocks()
    assert set(files) == TOUCHED
    for name, text in files.items():
        file = folder / name
        assert file.exists() is name.endswith('__init__.py')
        if file.exists():
            text = file.read_text().replace('\n\n__all__', f'\n{text.strip()}\n\n__all__', 1)
        file.write_text(text, encoding='utf-8')
    return folder


def run(tree: Path, *words: str) -> str:
    environment = {**os.environ, 'PYTHONPATH': str(tree), 'PYTHONDONTWRITEBYTECODE': '1', 'COLUMNS': '200'}
    done = subprocess.run([sys.executable, *words], cwd=tree, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_own_test_passes(tree: Path) -> None:
    assert 'passed' in run(tree, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', 'tests/distillers/test_energy.py')


def test_suite_and_config_writer_list_it(tree: Path) -> None:
    assert re.search(r'\benergy\b', run(tree, 'tools/suite.py', 'list'))
    lines = run(tree, 'tools/new_config.py', '--list').splitlines()
    column = lines[0].split().index('energy')
    marks = [line.split()[1:][column] for line in lines[1:-2]]
    assert marks
    assert set(marks) == {'o', '.'}


def test_its_configs_and_its_place_in_the_documents_are_written(tree: Path) -> None:
    before = {path: path.read_bytes() for path in tree.rglob('*') if path.is_file()}
    assert 'energy: ' in run(tree, 'tools/new_config.py', '--all', '--method', 'energy')
    files = sorted(path.stem for path in (tree / 'configs/energy').glob('*.py'))
    assert 'toy_seg' in files
    assert 'toy_det' not in files
    code = 'from mmengine.config import Config as C; print(C.fromfile("configs/energy/toy_seg.py").model.distillers)'
    assert run(tree, '-c', code).strip() == "{'energy': {'type': 'Energy', 'loss_weight': 10.0}}"
    run(tree, 'tools/catalogue.py')
    assert f'{len(files)} files in `energy`' in (tree / 'docs/methods/README.md').read_text()
    assert 'configs/energy/metafile.yml' in (tree / 'model-index.yml').read_text()
    assert (tree / 'configs/energy/metafile.yml').read_text().count('Name: energy_') == len(files)
    changed = {path for path in before if path.read_bytes() != before[path]}
    assert changed <= {tree / 'docs/methods/README.md', tree / 'model-index.yml', *tree.glob('configs/*/metafile.yml')}
