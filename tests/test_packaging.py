"""What a wheel carries, where links lead, and what the set-up says without a Python."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.isolation import OWN, ROOT


def test_a_wheel_carries_the_package(tmp_path: Path) -> None:
    """Built from a copy of the tree, without the network."""
    tree = tmp_path / 'tree'
    tree.mkdir()
    for source in (ROOT / name for name in OWN - {'.git', 'tests', 'docs'}):
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tree / source.name)
    options = ['-q', '--no-deps', '--no-build-isolation', '-w', tmp_path, tree]
    done = subprocess.run([sys.executable, '-m', 'pip', 'wheel', *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob('*.whl')
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entries,) = [name for name in names if name.endswith('entry_points.txt')]
        assert 'mmdistill = mmdistill_dense.__main__:script' in archive.read(entries).decode()
    files = [path for name in ('configs', 'tools') for path in (ROOT / name).rglob('*') if path.is_file()]
    expected = {f'mmdistill_dense/.mim/{path.relative_to(ROOT)}' for path in files if path.suffix != '.pyc'}
    assert expected | {'mmdistill_dense/.mim/model-index.yml'} <= names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / 'mmdistill_dense').rglob('*.py')}
    assert modules | {'mmdistill_dense/py.typed'} <= names
    assert {name.split('/')[0].split('-')[0] for name in names} == {'mmdistill_dense'}


def test_links_between_documents_lead_somewhere() -> None:
    for path in (*ROOT.glob('*.md'), *ROOT.glob('docs/**/*.md'), *ROOT.glob('configs/*/*.md')):
        for target in re.findall(r'\]\(([^)#:]+)\)', path.read_text()):
            assert (path.parent / target).exists(), f'{path}: {target}'


def test_a_setup_without_a_python_says_what_it_needs(tmp_path) -> None:
    """Without HOME, too: cron and some containers set none."""
    setup, words = ROOT / 'tools/setup_env.sh', ['env', '-u', 'HOME', '-u', 'MMDISTILL_WHEELS', f'VENV={tmp_path}']
    done = subprocess.run([*words, 'PYTHON=absent', 'sh', setup, 'demo'], capture_output=True, text=True)
    assert 'Python 3.10 or newer is needed' in done.stderr
