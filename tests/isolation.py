"""A test sees the project's own files and what it makes, never what a user keeps in the clone or at home.

The demo, a training and the guides' examples write into the clone (``work_dirs/demo/teacher/iter_700.pth``); weights
are fetched into the home. A test that finds such a file gives another result than in a fresh clone. So every test runs
in an empty folder with an empty home, and :class:`Watch` notes each look at the clone's other files: by name, opening,
listing, or starting a process there. What such a process does is not watched; its folder and home are.
"""

from __future__ import annotations

import builtins
import inspect
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
# The clone as it was asked for, perhaps through a link, and as it lies.
CLONE = tuple(f'{place}{os.sep}' for place in (Path(__file__).absolute().parents[1], ROOT))
OWN = {
    '.ci', '.dockerignore', '.git', '.github', '.gitignore', '.pre-commit-config.yaml', 'CHANGELOG.md', 'CITATION.cff',
    'CONTRIBUTING.md', 'Dockerfile', 'LICENSE', 'MANIFEST.in', 'Makefile', 'README.md', 'benchmarks', 'configs', 'docs',
    'mkdocs.yml', 'mmdistill_dense', 'model-index.yml', 'pyproject.toml', 'requirements', 'ruff.toml', 'setup.cfg',
    'tests', 'tools',
}  # fmt: skip
PYTHON = {'.venv', 'mmdistill_dense.egg-info', os.path.relpath(sys.prefix, ROOT).split(os.sep)[0]}
# A user's data, weights and settings. Fonts, browsers and packages give the same result wherever they lie and stay.
USERS = ('MMDISTILL_DATA', 'MMDISTILL_WEIGHTS', 'MMDISTILL_CACHE', 'XDG_CACHE_HOME', 'XDG_CONFIG_HOME', 'TORCH_HOME')
FOUND = {
    'MPLCONFIGDIR': 'matplotlib', 'PLAYWRIGHT_BROWSERS_PATH': 'ms-playwright', 'PIP_CACHE_DIR': 'pip',
    'UV_CACHE_DIR': 'uv', 'MMDISTILL_WHEELS': 'mmdistill_dense/wheels',
}  # fmt: skip
ROOM = 4 * 2**30  # bytes, also for what pip unpacks
ELSEWHERE, WATCH = pytest.StashKey[Path](), pytest.StashKey['Watch']()
LOOKS = ('stat', 'lstat', 'access', 'open', 'listdir', 'scandir')


def leave_home() -> Path:
    """Leave a user's places, for this process and those that it starts; returns the folder that tests run in."""
    cache = Path(os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache'))
    for variable, folder in FOUND.items():
        os.environ.setdefault(variable, str(cache / folder))
    for variable in USERS:
        os.environ.pop(variable, None)
    elsewhere = Path(tempfile.mkdtemp(prefix='mmdistill_dense_elsewhere_', dir=_memory())).resolve()
    # after the folder that multiprocessing makes there and removes, whose priority is -100
    Finalize(None, shutil.rmtree, (elsewhere,), {'ignore_errors': True}, exitpriority=-200)
    os.environ.setdefault('PYTEST_DEBUG_TEMPROOT', tempfile.gettempdir())  # what tests write stays on the disk
    # mmengine copies each file of a config there before it reads it: on a disk, half of the time that this takes.
    os.environ['TMPDIR'] = tempfile.tempdir = tempfile.mkdtemp(dir=elsewhere, prefix='tmp_')
    os.environ['HYPOTHESIS_STORAGE_DIRECTORY'] = str(elsewhere / '.hypothesis')
    if found := sys.modules.get('hypothesis.configuration'):  # with -v it was imported in the clone, and took that
        found.set_hypothesis_home_dir(elsewhere / '.hypothesis')
    return elsewhere


def _memory() -> Path | None:
    """A folder in memory that has room, where the system has one."""
    place = Path('/dev/shm')
    return place if os.access(place, os.W_OK) and shutil.disk_usage(place).free > ROOM else None


def fresh_folder(elsewhere: Path) -> None:
    """Go to an empty folder with an empty home, unless a fixture of several tests has gone to a folder of its own."""
    here, home = Path.cwd(), Path.home()
    if (here.parent == elsewhere and any(here.iterdir())) or here.is_relative_to(ROOT):
        os.chdir(tempfile.mkdtemp(dir=elsewhere))
    if home.parent != elsewhere or any(home.iterdir()):
        os.environ['HOME'] = tempfile.mkdtemp(dir=elsewhere, prefix='home_')


class Watch:
    """Notes what is looked at in the clone and is not the project's.

    Made before the home is left.
    """

    def __init__(self) -> None:
        self.home = str(Path.home())
        self.on, self.seen = False, list[str]()

    def install(self) -> None:
        """Watch this process until it ends, by other functions in the places of Python's own.

        An audit hook would see more, but is called at each ``id``: a twentieth of the time of all tests.
        """
        for name in LOOKS:
            setattr(os, name, self._instead(getattr(os, name), self._look))
        os.chdir = self._instead(os.chdir, self._go)
        io.open = builtins.open = self._instead(open, self._look)
        start = subprocess.Popen.__init__
        given = inspect.signature(start)

        def began(*args: Any, **options: Any) -> None:
            if self.on:
                self._started(given.bind(*args, **options).arguments)
            start(*args, **options)

        subprocess.Popen.__init__ = began

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Watch for this while."""
        before, self.on = self.on, True
        try:
            yield
        finally:
            self.on = before

    def foreign(self, path: Any) -> str | None:
        """Return the name of a path of the clone that is no file of the project's; a relative one is elsewhere."""
        if isinstance(path, os.PathLike):
            path = os.fspath(path)
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        return _foreign(path) if isinstance(path, str) and path.startswith(CLONE) else None

    def take(self) -> list[str]:
        """Return what was seen and forget it."""
        seen, self.seen = list(dict.fromkeys(self.seen)), []
        return seen

    def _instead(self, original: Any, look: Callable[..., Any]) -> Any:
        """Return what looks before it calls a function; a ``partial`` is no method where a class has it."""
        instead = partial(look, original)
        for supporting in (os.supports_follow_symlinks, os.supports_dir_fd, os.supports_fd, os.supports_effective_ids):
            if original in supporting:
                supporting.add(instead)
        return instead

    def _look(self, original: Callable[..., Any], *args: Any, **named: Any) -> Any:
        if self.on:
            self._note(self.foreign(args[0] if args else named.get('path', named.get('file'))), original.__name__)
        return original(*args, **named)

    def _go(self, original: Callable[..., Any], path: Any) -> None:
        if self.on:
            self._note(self._place(path), 'its working folder')
        original(path)

    def _started(self, given: Mapping[str, Any]) -> None:
        words, environment = given['args'], given.get('env')
        program = given.get('executable') or (words if isinstance(words, (str, bytes)) else words[0])
        self._note(self._place(given.get('cwd')), f'the working folder of {program}')
        if environment is not None and environment.get('HOME', self.home) == self.home:
            self._note('HOME', f'{program} is started with that of the user')

    def _place(self, folder: Any) -> str | None:
        """The clone as a working folder, in which every relative name is one of its."""
        if folder is None:
            return None
        place = os.path.abspath(os.fspath(folder))
        return place if isinstance(place, str) and f'{place}{os.sep}'.startswith(CLONE) else None

    def _note(self, name: str | None, what: str) -> None:
        if name is not None and (line := _line()):
            self.seen.append(f'{name} ({what}; {line})')


@cache  # asked half a million times in `make test`, of a few thousand files
def _foreign(path: str) -> str | None:
    whole = os.path.normpath(path)
    name = _inside(whole)
    return name if name != whole and name.split(os.sep)[0] not in OWN | PYTHON else None


def _inside(path: str) -> str:
    """The name of a path in the clone; other paths as they are."""
    return next((path.removeprefix(clone) for clone in CLONE if path.startswith(clone)), path)


def _line() -> str | None:
    """Where our code, or a test, asked; ``None`` where pytest looks for tests, or an import for modules."""
    frame: Any = sys._getframe()
    while frame := frame.f_back:
        name = frame.f_code.co_filename
        if 'importlib' in name or name.endswith('pkgutil.py'):
            return None
        ours = _inside(name)  # the environment, with all libraries, may lie in the clone
        if ours != name and name != __file__ and ours.split(os.sep)[0] in OWN:
            return f'{ours}:{frame.f_lineno}'
    return None
