"""Every config that can be named, by its place in ``configs``: the files, and what has a name without one."""

import functools
import re
from pathlib import Path

from mmengine.config import Config

from mmdistill_dense.apps.recipes.compose import methods
from mmdistill_dense.apps.recipes.named import Named, combinations

CONFIGS = Path(__file__).parents[1] / 'configs'
FILES = sorted(path for path in CONFIGS.rglob('*.py') if '_base_' not in path.parts)
CONTROLS = sorted(
    path
    for path in CONFIGS.glob('_base_/recipes/*.py')
    if 'runtime_pretrain' not in path.read_text(encoding='utf-8')  # a student without a head, of no use alone
)

# The data set in the name of a pair, between its networks and its variants.
DATA = re.compile('_(ade20k|bccd|camvid|cityscapes|coco_mini|coco|cocostuff|folder|imagenet|nuclei|small|voc)(?:_|$)')


@functools.cache
def named() -> dict[Path, Named]:
    """What is made of a recipe and method options, by the place of its file, whether it is there or not."""
    return {entry.file: entry for method in methods() for entry in combinations(method)}


@functools.cache
def every() -> list[Path]:
    """The places of all configs."""
    return sorted({*FILES, *CONTROLS, *named()})


def read(path: Path) -> Config:
    """Return the config of a place."""
    return Config.fromfile(path) if path.is_file() else named()[path].config()


def place(name: str) -> Path:
    """Return the place of ``'<method>/<pair>[_<variant>]'``; of ``'control/<pair>'`` the recipe."""
    return CONFIGS / f'{name.replace("control/", "_base_/recipes/")}.py'


def leaf(name: str) -> Config:
    """Return the config of a name."""
    return read(place(name))


def name_of(path: Path) -> str:
    """Return the name that :func:`place` takes."""
    return str(path.relative_to(CONFIGS).with_suffix('')).replace('_base_/recipes/', 'control/')


@functools.cache
def by_pair() -> dict[str, list[Path]]:
    """All configs, by the pair's name without its variants."""
    actual: dict[str, list[Path]] = {}
    for path in sorted(every(), key=lambda path: path.stem):
        start = next((stem for stem in actual if path.stem.startswith(f'{stem}_')), path.stem)
        actual.setdefault(start, []).append(path)
    return actual
