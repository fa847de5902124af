"""A test sees the project's own files and what it makes, never what a user keeps in the clone or at home.

The demo, a training and the guides' examples write into the clone (``work_dirs/demo/teacher/iter_700.pth``); weights
are fetched into the home. So every test begins in an empty folder with an empty home.
"""

import os
import shutil
import sys
import tempfile
from multiprocessing.util import Finalize
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OWN = {
    '.ci', '.dockerignore', '.git', '.github', '.gitignore', '.pre-commit-config.yaml', 'CHANGELOG.md', 'CITATION.cff',
    'CONTRIBUTING.md', 'Dockerfile', 'LICENSE', 'MANIFEST.in', 'Makefile', 'README.md', 'README_zh-CN.md', 'benchmarks',
    'configs', 'docs', 'examples', 'mkdocs.yml', 'mmdistill_dense', 'model-index.yml', 'pyproject.toml',
    'requirements', 'ruff.toml', 'setup.cfg', 'tests', 'tools',
}  # fmt: skip
# A user's data, weights and settings. Fonts, browsers and packages give the same result wherever they lie and stay.
USERS = ('MMDISTILL_DATA', 'MMDISTILL_WEIGHTS', 'MMDISTILL_CACHE', 'XDG_CACHE_HOME', 'XDG_CONFIG_HOME', 'TORCH_HOME')
FOUND = {
    'MPLCONFIGDIR': 'matplotlib', 'PLAYWRIGHT_BROWSERS_PATH': 'ms-playwright', 'PIP_CACHE_DIR': 'pip',
    'UV_CACHE_DIR': 'uv', 'MMDISTILL_WHEELS': 'mmdistill_dense/wheels',
}  # fmt: skip
ROOM = 4 * 2**30  # bytes, also for what pip unpacks


def leave_home() -> Path:
    """Leave a user's places, for this process and those that it starts; returns the folder that tests run in."""
    cache = Path(os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache'))
    for variable, folder in FOUND.items():
        os.environ.setdefault(variable, str(cache / folder))
    for variable in USERS:
        os.environ.pop(variable, None)
    memory = Path('/dev/shm')  # where the system has it, with room
    parent = memory if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM else None
    elsewhere = Path(tempfile.mkdtemp(prefix='mmdistill_dense_elsewhere_', dir=parent)).resolve()
    # after the folder that multiprocessing makes there and removes, whose priority is -100
    Finalize(None, shutil.rmtree, (elsewhere,), {'ignore_errors': True}, exitpriority=-200)
    os.environ.setdefault('PYTEST_DEBUG_TEMPROOT', tempfile.gettempdir())  # what tests write stays on the disk
    # mmengine copies each file of a config there before it reads it: on a disk, half of the time that this takes.
    os.environ['TMPDIR'] = tempfile.tempdir = tempfile.mkdtemp(dir=elsewhere, prefix='tmp_')
    os.environ['HYPOTHESIS_STORAGE_DIRECTORY'] = str(elsewhere / '.hypothesis')
    if actual := sys.modules.get('hypothesis.configuration'):  # with -v it was imported in the clone, and took that
        actual.set_hypothesis_home_dir(elsewhere / '.hypothesis')
    return elsewhere


def fresh_folder(elsewhere: Path) -> None:
    """Go to an empty folder with an empty home, unless a fixture of several tests has gone to a folder of its own."""
    clone, home = Path.cwd(), Path.home()
    if (clone.parent == elsewhere and any(clone.iterdir())) or clone.is_relative_to(ROOT):
        os.chdir(tempfile.mkdtemp(dir=elsewhere))
    if home.parent != elsewhere or any(home.iterdir()):
        os.environ['HOME'] = tempfile.mkdtemp(dir=elsewhere, prefix='home_')
