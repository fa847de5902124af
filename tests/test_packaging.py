"""What a wheel carries, what the tree must not hold, that versions agree, and that tests see no user's files."""

import configparser
import os
import pwd
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mmdistill_dense
from tests.isolation import OWN, ROOT, USERS

SOURCES = [ROOT / name for name in sorted(OWN - {'.git'})]
TEXT = {'.py', '.md', '.yml', '.yaml', '.txt', '.sh', '.cfg', '.toml', '.cff', '.in', ''}


SETUP = configparser.ConfigParser()
SETUP.read(ROOT / 'setup.cfg')


def text_files() -> list[Path]:
    """All text files of the project, build leftovers left out."""
    files = [path for source in SOURCES for path in (source, *source.rglob('*')) if '__pycache__' not in path.parts]
    return [path for path in files if path.is_file() and path.suffix in TEXT]


def copied(folder: Path, *left_out: str) -> Path:
    """A copy of the tree in a folder, some of its folders left out."""
    for source in SOURCES:
        if source.is_file():
            shutil.copy(source, folder)
        elif source.name not in left_out:
            shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns('__pycache__', 'data'))
    return folder


def setuptools(folder: Path, call: str) -> str:
    """What a function of its backend returns in a folder."""
    code = f'from setuptools.build_meta import *; print({call})'
    done = subprocess.run([sys.executable, '-c', code], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope='module')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tree, without the network."""
    folder, tree = tmp_path_factory.mktemp('wheel'), copied(tmp_path_factory.mktemp('tree'), 'tests', 'docs')
    options = ['-q', '--no-deps', '--no-build-isolation', '-w', folder, tree]
    done = subprocess.run([sys.executable, '-m', 'pip', 'wheel', *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob('*.whl')
    return wheel


def test_a_wheel_carries_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entries,) = [name for name in names if name.endswith('entry_points.txt')]
        assert 'mmdistill = mmdistill_dense.__main__:script' in archive.read(entries).decode()
    tree = [path for name in ('configs', 'tools') for path in (ROOT / name).rglob('*') if path.is_file()]
    expected = {f'mmdistill_dense/.mim/{path.relative_to(ROOT)}' for path in tree if path.suffix != '.pyc'}
    assert expected | {'mmdistill_dense/.mim/model-index.yml'} <= names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / 'mmdistill_dense').rglob('*.py')}
    assert modules | {'mmdistill_dense/py.typed'} <= names
    assert {name.split('/')[0].split('-')[0] for name in names} == {'mmdistill_dense'}


@pytest.mark.parametrize('address', ['', 'https://github.com/me/mine'])
def test_links_of_the_wheel_s_description_lead_somewhere(address: str, wheel: Path, tmp_path: Path) -> None:
    """With a public address all are absolute, and there are badges; without one, text stays. The source archive holds
    no test, which could not run."""
    if not address:
        with zipfile.ZipFile(wheel) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith('METADATA')]
            text = archive.read(name).decode()
    else:
        copied(tmp_path, *{source.name for source in SOURCES} - {'mmdistill_dense', 'tools'})
        setup = (tmp_path / 'setup.cfg').read_text()
        assert setup.count('\nurl =\n') == 1
        (tmp_path / 'setup.cfg').write_text(setup.replace('\nurl =\n', f'\nurl = {address}\n'))
        text = (tmp_path / setuptools(tmp_path, "prepare_metadata_for_build_wheel('.')") / 'METADATA').read_text()
        with tarfile.open(tmp_path / setuptools(tmp_path, "build_sdist('.')")) as archive:
            names = {name.partition('/')[2] for name in archive.getnames()}
        assert 'mmdistill_dense/__main__.py' in names and not [name for name in names if name.startswith('tests')]
    links = re.findall(r'\]\(([^)]+)\)', text)
    assert not [link for link in links if not link.startswith(('https://', '#'))]
    matches = [re.match(rf'{address}/(?:blob|raw)/main/([^#]*)', link) for link in links if address]
    paths = {actual[1] for actual in matches if actual}
    assert all((ROOT / path).exists() for path in paths) and (len(paths) > 40) == bool(address)
    assert ('/actions/workflows/ci.yml/badge.svg' in text) == ('colab' in text) == bool(address)
    assert 'Licence: Apache-2.0' in text and (f'Home-page: {address}' in text) == bool(address)


@pytest.mark.parametrize(('kinds', 'pattern'), [
    ({'.py'}, r'^\s*(from|import)\s+onedl'),
    (TEXT, r'(?<![\w.}])/(work|farm|root|home)/'),  # '{{ fileDirname }}/work' is mmengine's
    ({'.py', '.sh'}, r'find_unused_parameters\s*=\s*True'),
], ids=['name of a fork', 'machine path', 'unused parameters'])  # fmt: skip
def test_no_file_holds_it(kinds: set[str], pattern: str) -> None:
    files = [path for path in text_files() if path.suffix in kinds and path != Path(__file__)]
    assert not [str(path) for path in files if re.search(pattern, path.read_text(), re.MULTILINE)]


def test_tested_versions_satisfy_the_extras() -> None:
    version = mmdistill_dense.__version__
    assert f'version: {version}\n' in (ROOT / 'CITATION.cff').read_text()
    assert re.search(rf'^## {re.escape(version)}\b', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)
    required, extras = SETUP['options']['install_requires'], SETUP['options.extras_require']
    assert not re.search(r'mm(engine|cv|seg|det)|onedl|openmim', required) and SETUP['metadata']['author']
    lines = (ROOT / 'requirements/constraints.txt').read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith('#')]
    tested = {canonicalize_name(pin.name): str(pin.specifier).removeprefix('==') for pin in pins
              if pin.marker is None or pin.marker.evaluate()}  # fmt: skip
    expected = '\n'.join([extras['onedl'], extras['test'], required]).split('\n')
    for requirement in [Requirement(line) for line in expected if line.strip()]:
        assert requirement.specifier.contains(tested[canonicalize_name(requirement.name)]), requirement


def test_make_names_tests_that_are_there(tmp_path) -> None:
    """Cron and some containers set none; it goes on to look for a Python."""
    test_names = re.findall(r'\btests/[\w/.]+', (ROOT / 'Makefile').read_text())
    assert len(test_names) > 5 and all((ROOT / name).exists() for name in test_names)
    text, setup = (ROOT / 'Dockerfile').read_text(), ROOT / 'tools/setup_env.sh'
    level = re.search(r'^ARG LEVEL=(\w+)$', text, re.MULTILINE)[1]
    assert f'    {level})' in setup.read_text() and 'RUN tools/setup_env.sh ${LEVEL}' in text
    command = ['env', '-u', 'HOME', '-u', 'MMDISTILL_WHEELS', f'VENV={tmp_path}', 'PYTHON=absent', 'sh', setup, 'demo']
    assert 'Python 3.10 or newer is needed' in subprocess.run(command, capture_output=True, text=True).stderr


def test_links_between_documents_lead_somewhere() -> None:
    for path in (*ROOT.glob('*.md'), *ROOT.glob('docs/**/*.md'), *ROOT.glob('configs/*/*.md')):
        for target in re.findall(r'\]\(([^)#:]+)\)', path.read_text()):
            assert (path.parent / target).exists(), f'{path}: {target}'


@pytest.mark.parametrize('turn', ['first', 'second'])
def test_a_test_begins_in_an_empty_folder_with_an_empty_home(turn: str) -> None:
    """No test sees what a user keeps at home, or what another test left; the project's own files are there."""
    assert not Path.cwd().is_relative_to(ROOT) and not list(Path.cwd().iterdir())
    assert not list(Path.home().iterdir())
    assert Path.home() != Path(pwd.getpwuid(os.getuid()).pw_dir)
    assert not set(USERS) & set(os.environ)
    assert all((ROOT / name).exists() for name in OWN - {'.git'})  # a release has none
    Path('left').touch()
