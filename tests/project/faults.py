"""Changes of a data set on disk: one fault each, made where the data lie."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

Write = Callable[[Path], object]


def text(file: str, old: str, new: str, count: int = 1) -> Write:
    """Exchange a text that the files of a pattern have."""

    def change(root: Path) -> None:
        for path in files(root, file):
            content = path.read_text(encoding='utf-8')
            assert re.search(old, content), path
            path.write_text(re.sub(old, new, content, count=count), encoding='utf-8')

    return change


def files(root: Path, pattern: str) -> list[Path]:
    found = sorted(root.glob(pattern))
    assert found, pattern
    return found


def content(file: str, do: Callable[[dict[str, Any]], object]) -> Write:
    """Change what json files hold."""

    def change(root: Path) -> None:
        for path in files(root, file):
            found = json.loads(path.read_text())
            do(found)
            path.write_text(json.dumps(found))

    return change


def values(file: str, *place: str | int, **changed: object) -> Write:
    """Change what stands at a place of a json file."""

    def do(found: Any) -> None:
        for key in place:
            found = found[key]
        found.update(changed)

    return content(file, do)


def line(file: str, words: str) -> Write:
    """Add a line at the end, or write the file."""

    def change(root: Path) -> None:
        with (root / file).open('a', encoding='utf-8') as stream:
            stream.write(f'\n{words}')

    return change


def wrote(file: str, words: str = 'no picture') -> Write:
    return lambda root: (root / file).write_text(words)


def gone(*names: str) -> Write:
    def change(root: Path) -> None:
        for name in names:
            shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()

    return change


def copied(file: str, place: str) -> Write:
    def change(root: Path) -> None:
        (root / place).parent.mkdir(exist_ok=True)
        shutil.copy(root / file, root / place)

    return change


def painted(file: str, paint: Callable[[Image.Image], Image.Image]) -> Write:
    """Exchange images by what is made of them."""

    def change(root: Path) -> None:
        for path in files(root, file):
            with Image.open(path) as image:
                paint(image).save(path)

    return change


def renamed(file: str, name: Callable[[Path], str]) -> Write:
    return lambda root: [path.rename(path.with_name(name(path))) for path in files(root, file)]


def both(*changes: Write) -> Write:
    return lambda root: [change(root) for change in changes]


def all_boxes(**new: object) -> Callable[[dict[str, Any]], object]:
    """A change of all annotations of a content."""
    return lambda found: [one.update(new) for one in found['annotations']]


def first_boxes(**new: object) -> Callable[[dict[str, Any]], object]:
    return lambda found: [one.update(new) for one in found['annotations'][:2]]
