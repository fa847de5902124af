"""What a wheel carries, what the tree must not hold, and that versions agree."""

import configparser
import itertools
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
import yaml

import mmdistill_dense
from tests.isolation import OWN, ROOT, USERS

SOURCES = [ROOT / name for name in sorted(OWN - {'.git'})]
TEXT = {'.py', '.md', '.yml', '.yaml', '.txt', '.sh', '.cfg', '.toml', '.cff', '.in', ''}


def text_files() -> list[Path]:
    """All text files of the project, build leftovers left out."""
    files = [path for source in SOURCES for path in (source, *source.rglob('*')) if '__pycache__' not in path.parts]
    return [path for path in files if path.is_file() and path.suffix in TEXT]


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / 'setup.cfg')
    return parser


@pytest.fixture(scope='module')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tree, without the network."""
    folder = tmp_path_factory.mktemp('wheel')
    (folder / 'tree').mkdir()
    for source in SOURCES:
        if source.is_file():
            shutil.copy(source, folder / 'tree')
        elif source.name not in ('tests', 'docs'):
            shutil.copytree(source, folder / 'tree' / source.name, ignore=shutil.ignore_patterns('__pycache__'))
    options = ['-q', '--no-deps', '--no-build-isolation', '-w', folder, folder / 'tree']
    command = [sys.executable, '-m', 'pip', 'wheel', *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob('*.whl')
    return wheel


def test_wheel_carries_the_package_the_program_what_mim_looks_for_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entries,) = [one for one in names if one.endswith('entry_points.txt')]
        assert 'mmdistill = mmdistill_dense.__main__:script' in archive.read(entries).decode()
    tree = [path for name in ('configs', 'tools') for path in (ROOT / name).rglob('*') if path.is_file()]
    expected = {f'mmdistill_dense/.mim/{path.relative_to(ROOT)}' for path in tree if path.suffix != '.pyc'}
    assert expected | {'mmdistill_dense/.mim/model-index.yml'} <= names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / 'mmdistill_dense').rglob('*.py')}
    assert modules | {'mmdistill_dense/py.typed'} <= names
    assert {name.split('/')[0].split('-')[0] for name in names} == {'mmdistill_dense'}


@pytest.mark.parametrize('address', ['', 'https://github.com/me/mine'])
def test_links_of_the_wheel_s_description_lead_somewhere(address: str, wheel: Path, tmp_path: Path) -> None:
    """With a public address all are absolute, and there are badges; without one, text stays."""
    if not address:
        with zipfile.ZipFile(wheel) as archive:
            (name,) = [one for one in archive.namelist() if one.endswith('METADATA')]
            text = archive.read(name).decode()
    else:
        for name in ('README.md', 'setup.cfg', 'pyproject.toml', 'LICENSE'):
            shutil.copy(ROOT / name, tmp_path)
        shutil.copytree(ROOT / 'mmdistill_dense', tmp_path / 'mmdistill_dense')
        setup = (tmp_path / 'setup.cfg').read_text()
        assert setup.count('\nurl =\n') == 1
        (tmp_path / 'setup.cfg').write_text(setup.replace('\nurl =\n', f'\nurl = {address}\n'))
        (tmp_path / 'out').mkdir()
        code = "from setuptools.build_meta import *; print(prepare_metadata_for_build_wheel('out'))"
        done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, check=True)
        text = (tmp_path / 'out' / done.stdout.splitlines()[-1] / 'METADATA').read_text()
    links = re.findall(r'\]\(([^)]+)\)', text)
    assert not [link for link in links if not link.startswith(('https://', '#'))]
    ours = {
        link.removeprefix(f'{address}/{kind}/main/').partition('#')[0]
        for link in links
        for kind in ('blob', 'raw')
        if address and link.startswith(f'{address}/{kind}/')
    }
    assert all((ROOT / link).exists() for link in ours) and (len(ours) > 40) == bool(address)
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


def test_the_source_archive_holds_no_test_that_cannot_run(tmp_path: Path) -> None:
    for name in ('mmdistill_dense', 'tests'):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns('__pycache__', 'data'))
    for path in SOURCES:
        if path.is_file():
            shutil.copy(path, tmp_path)
    code = "from setuptools.build_meta import *; build_sdist('.')"
    subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, check=True)
    with tarfile.open(*tmp_path.glob('*.tar.gz')) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    assert 'mmdistill_dense/__main__.py' in names
    assert not [name for name in names if name.split('/')[0] == 'tests']


def test_the_site_is_built_with_its_extra_alone() -> None:
    """It needs neither torch nor mmcv, and says who wrote the package."""
    text = (ROOT / '.github/workflows/site.yml').read_text()
    extra = setup_cfg()['options.extras_require']['docs'].split()
    assert all(name.partition('>')[0] in text for name in extra) and 'make' not in re.findall(r'run: (\w+)', text)
    assert setup_cfg()['metadata']['author']


def test_versions_agree_and_no_mm_distribution_is_required() -> None:
    version = mmdistill_dense.__version__
    assert f'version: {version}\n' in (ROOT / 'CITATION.cff').read_text()
    assert re.search(rf'^## {re.escape(version)}\b', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)
    required = setup_cfg()['options']['install_requires']
    assert not re.search(r'mm(engine|cv|seg|det)|onedl|openmim', required)


def test_tested_versions_satisfy_the_extras() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pins = {}
    for line in (ROOT / 'requirements/constraints.txt').read_text().splitlines():
        if line and not line.startswith('#'):
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate():
                pins[canonicalize_name(pin.name)] = str(pin.specifier).removeprefix('==')
    config = setup_cfg()
    extras = [config['options.extras_require'][name] for name in ('onedl', 'test')] + [
        config['options']['install_requires']
    ]
    wanted = [Requirement(line) for lines in extras for line in lines.split('\n') if line.strip()]
    assert wanted
    for requirement in wanted:
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_the_setup_needs_no_home(tmp_path: Path) -> None:
    """Cron and some containers set none; it goes on to look for a Python."""
    command = ['env', '-u', 'HOME', '-u', 'MMDISTILL_WHEELS', 'sh', str(ROOT / 'tools/setup_env.sh'), 'demo']
    environment = {**os.environ, 'VENV': str(tmp_path), 'PYTHON': 'absent'}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert 'Python 3.10 or newer is needed' in done.stderr


def test_every_distiller_has_a_card() -> None:
    import mmdistill_dense.distillers  # noqa: F401
    from mmdistill_dense.registry import DISTILLERS

    cards = {path.stem: path.read_text() for path in (ROOT / 'docs' / 'methods').glob('[!R]*.md')}
    # Other tests register methods of their own.
    ours = {name for name, kind in DISTILLERS.module_dict.items() if kind.__module__.startswith('mmdistill_dense.')}
    named = {name for name in ours for text in cards.values() if text.startswith(f'# {name}')}
    assert named == ours
    assert len(cards) == len(named)


def test_metafiles_name_existing_configs_and_their_names() -> None:
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    names = []
    for metafile in index['Import']:
        content = yaml.safe_load((ROOT / metafile).read_text())
        collections = {one['Name'] for one in content['Collections']}
        assert all((ROOT / one['README']).is_file() for one in content['Collections'])
        for model in content['Models']:
            assert (ROOT / model['Config']).is_file()
            config = Path(model['Config'])
            assert model['Name'] == f'{config.parent.name}_{config.stem}'
            assert model['In Collection'] in collections
            names.append(model['Name'])
    # mim knows a model by its name alone, written small
    assert len(names) == len(set(names)) > 0
    assert names == [name.lower() for name in names]


def test_the_workflow_runs_the_whole_check_and_keeps_the_compiled_wheel() -> None:
    job = yaml.safe_load((ROOT / '.github/workflows/ci.yml').read_text())['jobs']['run']
    cached = next(step['with'] for step in job['steps'] if 'cache@' in step.get('uses', ''))
    setup = (ROOT / 'tools/setup_env.sh').read_text()
    assert job['steps'][-1] == {'run': 'bash .ci/run'}
    assert '/.cache}/mmdistill_dense/wheels' in setup and '~/.cache/mmdistill_dense/wheels' in cached['path'].split()
    assert all((ROOT / name).is_file() for name in re.findall(r"'([\w/.]+)'", cached['key']))


def test_hooks_before_a_commit_are_those_of_make_lint() -> None:
    (local,) = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos']
    lint = re.findall(
        r'-m (mypy|ruff \w+)', (ROOT / 'Makefile').read_text().partition('\nlint:')[2].partition('\n\n')[0]
    )
    entries = [hook['entry'] for hook in local['hooks']]
    assert len(lint) == len(entries) and all(f'-m {tool}' in entry for tool, entry in zip(lint, entries, strict=True))


def test_make_names_tests_that_are_there() -> None:
    named = re.findall(r'\btests/[\w/.]+', (ROOT / 'Makefile').read_text())
    assert len(named) > 5 and all((ROOT / name).exists() for name in named)


def test_the_image_is_made_by_the_set_up() -> None:
    text = (ROOT / 'Dockerfile').read_text()
    arguments = dict(re.findall(r'^ARG (\w+)=(\S+)$', text, re.MULTILINE))
    assert f'    {arguments["LEVEL"]})' in (ROOT / 'tools/setup_env.sh').read_text()
    assert 'RUN tools/setup_env.sh ${LEVEL}' in text and text.rstrip().endswith('CMD ["make", "demo"]')
    assert set(re.findall(r'--build-arg (\w+)=', text)) == {*arguments, 'TORCH_CUDA_ARCH_LIST'}


def test_links_between_documents_lead_somewhere() -> None:
    pages = ROOT.glob('*.md'), (ROOT / 'docs').rglob('*.md'), ROOT.glob('configs/*/*.md')
    for path in itertools.chain(*pages):
        for target in re.findall(r'\]\(([^)#:]+)\)', path.read_text()):
            assert (path.parent / target).exists(), f'{path}: {target}'


def test_a_test_begins_in_an_empty_folder_with_an_empty_home() -> None:
    assert not Path.cwd().is_relative_to(ROOT) and not list(Path.cwd().iterdir())
    assert not list(Path.home().iterdir())
    assert Path.home() != Path(pwd.getpwuid(os.getuid()).pw_dir)
    assert not set(USERS) & set(os.environ)
    Path('left').touch()


def test_what_another_test_left_is_gone() -> None:
    assert not list(Path.cwd().iterdir())


def test_the_projects_own_files_are_there() -> None:
    assert all((ROOT / name).exists() for name in OWN - {'.git'})  # a release has none
