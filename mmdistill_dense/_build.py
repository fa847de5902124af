"""Build step that adds the files that mim needs to a wheel; only setuptools imports it."""

import shutil
from pathlib import Path

from setuptools.command.build_py import build_py

MIM_PARTS = ('configs', 'tools', 'benchmarks', 'model-index.yml')


class BuildPy(build_py):
    """Copies ``configs``, ``tools``, ``benchmarks`` and ``model-index.yml`` to ``mmdistill_dense/.mim`` of the wheel.

    An editable install needs no copy: there mim takes the checkout itself as the package's root.
    """

    def run(self) -> None:
        """Build the package, then add the copies."""
        super().run()
        if not self.editable_mode:
            copy_mim_parts(Path.cwd(), Path(self.build_lib) / 'mmdistill_dense' / '.mim')


def copy_mim_parts(source: Path, target: Path) -> None:
    """Copy the parts of the checkout ``source`` to ``target``, which is emptied first, without caches."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in MIM_PARTS:
        part = source / name
        if part.is_dir():
            shutil.copytree(part, target / name, ignore=shutil.ignore_patterns('__pycache__', '*.py[co]'))
        else:
            shutil.copy2(part, target / name)
