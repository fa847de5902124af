"""Small data sets on disk, as users have them, and changes of them."""

import itertools
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (48, 64)


def counts(data: Any) -> dict[str, int]:
    return {part: split.count for part, split in data.splits.items()}


def stems(data: Any) -> dict[str, set[str]]:
    return {part: {Path(name).stem for name in split.names} for part, split in data.splits.items()}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8')


def save(path: Path, pixels: np.ndarray | Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path)


def picture(path: Path, seed: int = 0) -> None:
    save(path, np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), dtype=np.uint8))


def label(path: Path, values: Sequence[int] = (0, 1, 2), seed: int = 0) -> None:
    drawn = np.random.default_rng(seed).choice(list(values), SIZE)
    drawn[0, : len(values)] = values
    save(path, drawn.astype(np.uint8))


def seg_folder(root: Path, values: Sequence[int] = (0, 1, 2), splits: Sequence[str] = ('train', 'val')) -> Path:
    """``images/SPLIT/0.jpg`` with ``labels/SPLIT/0.png``, 4 pictures for training and 2 for each other split."""
    for split in splits:
        for number in range(4 if split == 'train' else 2):
            picture(root / f'images/{split}/{number}.jpg', 1000 * len(split) + number)
            label(root / f'labels/{split}/{number}.png', values, number)
    return root


def coco_content(
    names: Sequence[str],
    categories: Sequence[str],
    drawn: Sequence[tuple[int, int, Sequence[tuple[int, int]]]],
    start: int = 1,
) -> dict[str, Any]:
    """A file of COCO: pictures, numbered from ``start``, and outlines, each with the places of picture and category."""
    images = [
        {'id': number, 'file_name': name, 'height': SIZE[0], 'width': SIZE[1]}
        for number, name in enumerate(names, start)
    ]
    outlines = []
    for number, (picture_at, category, points) in enumerate(drawn, 1):
        (left, *_, right), (top, *_, bottom) = (sorted(side) for side in zip(*points, strict=True))
        numbers = {'id': number, 'image_id': picture_at + start, 'category_id': category + 1, 'iscrowd': 0}
        sides = {'bbox': [left, top, right - left, bottom - top], 'area': (right - left) * (bottom - top)}
        outlines.append({**numbers, **sides, 'segmentation': [[value for point in points for value in point]]})
    kinds = [{'id': number, 'name': name} for number, name in enumerate(categories, 1)]
    return {'images': images, 'annotations': outlines, 'categories': kinds}


def label_file(names: Sequence[str], categories: Sequence[str], masks: bool = False) -> dict[str, Any]:
    """Two boxes of every category in each picture."""
    combinations = itertools.product(range(len(names)), range(len(categories)), (2, 30))
    corners = ((0, 0), (20, 0), (20, 18), (0, 18))
    drawn = [(at, kind, [(left + x, 4 + 10 * kind + y) for x, y in corners]) for at, kind, left in combinations]
    content = coco_content(names, categories, drawn, 0)
    for box in content['annotations'] if not masks else ():
        del box['segmentation']
    return content


def labelled(root: Path, names: Sequence[str]) -> dict:
    """Pictures of these names, and the content of a label file of one category for them."""
    for name in names:
        picture(root / name)
    return label_file(names, ['cell'])


def changed(root: Path, do: Callable[[dict[str, Any]], Any], splits: Sequence[str] = ('train', 'val')) -> Path:
    """Change the label files of :func:`box_folder`; what ``do`` returns does not count."""
    for split in splits:
        content(f'annotations/instances_{split}.json', do)(root)
    return root


def box_folder(root: Path, categories: Sequence[str] = ('red', 'white'), masks: bool = False) -> Path:
    """``train/0.jpg`` with ``annotations/instances_train.json``, and the same for val."""
    for split, count in (('train', 4), ('val', 2)):
        names = [f'{number}.jpg' for number in range(count)]
        for name in names:
            picture(root / split / name, 1000 * len(split) + int(name[0]))
        write(root / f'annotations/instances_{split}.json', json.dumps(label_file(names, categories, masks)))
    return root


# Changes of a data set on disk: one fault each, made where the data lie

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
    paths = sorted(root.glob(pattern))
    assert paths, pattern
    return paths


def content(file: str, do: Callable[[dict[str, Any]], object]) -> Write:

    def change(root: Path) -> None:
        for path in files(root, file):
            actual = json.loads(path.read_text())
            do(actual)
            path.write_text(json.dumps(actual))

    return change


def values(file: str, *place: str | int, **changed: object) -> Write:
    """Change what stands at a place of a json file."""

    def do(found: Any) -> None:
        for key in place:
            found = found[key]
        found.update(changed)

    return content(file, do)


def shape_of_labelme(number: int, **changed: object) -> Write:
    """Change a shape of a file of :func:`tests.project.exports.labelme`."""
    return values('train/b.json', 'shapes', number, **changed)


def line(file: str, words: str) -> Write:

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


def first_boxes(count: int | None = 2, /, **new: object) -> Callable[[dict[str, Any]], object]:
    """A change of so many annotations of a content, or of all."""
    return lambda found: [entry.update(new) for entry in found['annotations'][:count]]
