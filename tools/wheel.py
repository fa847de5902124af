"""Setuptools commands for building the wheel: the files of mim in it, and links that hold outside of the repository.

The public address of the repository stands in one place, ``url`` in setup.cfg. Links, badges and the Colab link are
made from it, and left out while it is empty.
"""

import configparser
import re
import shutil
from pathlib import Path

from setuptools.command.build_py import build_py
from setuptools.command.egg_info import egg_info

MIM_PARTS = ('configs', 'tools', 'benchmarks', 'model-index.yml')
BADGES = re.compile(r'^.*<!-- badges -->$', re.MULTILINE)
_LINK = re.compile(r'(!?)\[((?:[^][]|!\[[^]]*\]\([^)]*\))*)\]\((?!\w+:|#)([^)]+)\)')


def source_address(root: Path) -> str:
    """Return the public address of the repository; empty while it has none."""
    setup = configparser.ConfigParser()
    setup.read(root / 'setup.cfg', encoding='utf-8')
    return setup['metadata'].get('url', '').rstrip('/')


def with_badges(readme: str, address: str) -> str:
    """Return README with the badges of an address on the line that ends in ``<!-- badges -->``."""
    colab = address.replace('https://github.com', 'https://colab.research.google.com/github')
    badges = (
        f'[![ci]({address}/actions/workflows/ci.yml/badge.svg)]({address}/actions) '
        f'[![Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab}/blob/main/docs/tutorial.ipynb) '
    )
    return BADGES.sub(f'{badges if address else ""}<!-- badges -->', readme)


def described(readme: str, address: str) -> str:
    """Return README as the description of a wheel: relative links lead to the address, or are left out without one."""

    def absolute(link: re.Match[str]) -> str:
        picture, text, target = link.groups()
        if not address:
            return '' if picture else text
        return f'{picture}[{text}]({address}/{"raw" if picture else "blob"}/main/{target})'

    return _LINK.sub(absolute, with_badges(readme, address))


class EggInfo(egg_info):
    """Writes the description of the package."""

    def run(self) -> None:
        address = source_address(Path.cwd())
        self.distribution.metadata.url = address or None
        self.distribution.metadata.long_description = described(Path('README.md').read_text(encoding='utf-8'), address)
        super().run()


class BuildPy(build_py):
    """Copies ``MIM_PARTS`` to ``mmdistill_dense/.mim`` of a wheel; an editable install has the checkout itself."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / 'mmdistill_dense' / '.mim'
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for part in map(Path, MIM_PARTS):
            if part.is_dir():
                shutil.copytree(part, target / part, ignore=shutil.ignore_patterns('__pycache__', '*.py[co]'))
            else:
                shutil.copy2(part, target / part)
