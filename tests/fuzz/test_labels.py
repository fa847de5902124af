"""Exports of annotation tools with something replaced or removed: one line names the place, or counts add up."""

import copy
import json
import random
import re
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from mmengine.registry import init_default_scope

from mmdistill_dense.apps.project.box_labels import BoxData, find_box_data
from mmdistill_dense.apps.project.label_images import find_seg_data
from mmdistill_dense.registry import DATASETS
from tests.project import exports
from tests.project.written_data import perfect_scores, write_config

VALUES: list[Any] = [
    None, True, 0, -1, 1e308, float('nan'), float('inf'), 2**70, 0.5, '', '0', '1e400', '-inf', 'x' * 3000, '\n',
    'a\nb', '<b>&amp;', '../../../etc/passwd', '\0', '\ud800', [], {}, [[]], [1, 2, 3], {'a': 1}, 'b.jpg', '1,2;3,4',
    {'size': [48, 64], 'counts': 'x'}, {'size': [48, 64], 'counts': [1, 2]}, {'size': [1, 1], 'counts': [-5]},
    {'size': [2**31, 2**31], 'counts': [3]}, [float('nan')] * 8, [1e30] * 8, [-1e9, 0, 1e9, 0, 0, 1e9],
]  # fmt: skip
KEYS = ('score', 'ignore', 'iscrowd', 'group_id', 'mask', 'imageHeight', 'segmentation')


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """All dicts and lists of a content, each with all of its keys or numbers."""
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def mutated(dice: random.Random, file: Path, content: bytes) -> bytes:
    if file.suffix == '.json' and dice.random() < 0.75:
        document = json.loads(content)
        for _ in range(dice.choice([1, 1, 2])):
            parent, key = dice.choice(list(places(document)))
            kind = dice.random()
            if kind < 0.7:
                parent[key] = dice.choice(VALUES)
            elif kind < 0.8:
                del parent[key]
            elif isinstance(parent, list):
                parent.append(copy.deepcopy(parent[key]))
            else:
                parent[dice.choice(KEYS)] = dice.choice(VALUES)
        return json.dumps(document).encode('utf-8', 'surrogatepass')
    if file.suffix in ('.json', '.xml', '.txt', '.yaml', '.csv', '.names') and dice.random() < 0.8:
        words = re.split(rb'([\s,;"<>=]+)', content)
        for _ in range(dice.choice([1, 1, 2, 4])):
            index = dice.randrange(len(words))
            value = str(dice.choice(VALUES)).encode('utf-8', 'surrogatepass')
            words[index] = dice.choice([value, value, b'', words[index] * 2, words[-1 - index]])
        return b''.join(words)
    raw = bytearray(content)
    for _ in range(dice.choice([1, 2, 3])):
        start, length = dice.randrange(max(len(raw), 1)), dice.randrange(1, 64)
        raw[start : start + length] = dice.choice([b'', dice.randbytes(length), raw[start : start + length] * 2])
    return bytes(raw[: dice.choice([len(raw), len(raw), len(raw) // 2])])


def in_files(root: Path) -> int:
    """Return the objects of all label files as they are written. Damage raises an error."""
    actual = 0
    for file in root.rglob('*'):
        if file.suffix == '.json':
            content = json.loads(file.read_bytes())
            actual += len(content['annotations' if 'annotations' in content else 'shapes'])
        elif file.suffix == '.xml':
            drawn = ('object', 'polygon', 'mask', 'box', 'ellipse', 'polyline')
            actual += sum(node.tag in drawn for node in ElementTree.parse(file).iter())
        elif file.suffix == '.txt' and {'labels', 'obj_train_data'} & {*file.parts}:
            actual += sum(bool(line.strip()) for line in file.read_text(encoding='utf-8-sig').splitlines())
    return actual


def check_counts(data: BoxData, root: Path) -> None:
    """What is kept and what is said to be left out are all objects."""
    splits = {id(split): split for split in data.splits.values()}.values()
    files = [json.loads(split.content or (data.root / split.labels).read_bytes()) for split in splits]
    lost = [int(actual[1]) for note in data.notes if (actual := re.match(r'WARNING: (\d+) of \d+ annotations', note))]
    kept_count = sum(len(file['annotations']) for file in files)
    (count,) = re.findall(r'; (\d+) annotations', data.notes[0])
    assert kept_count + sum(lost) == int(count)
    try:
        total = in_files(root)
    except Exception:
        return
    assert int(count) == total or any(re.search(r'WARNING: \d+ of \d+ (files|pictures)', note) for note in data.notes)


def refusal(root: Path, task: str) -> str:
    """Read the data, and for boxes let training and metric read what is written; empty where nothing is refused."""
    try:
        if task == 'det':
            data = find_box_data(root)
            check_counts(data, root)
            assert perfect_scores(write_config(data, root.with_name('out')))['coco/bbox_mAP'] == 1
        else:
            drawing = find_seg_data(root).drawing
            for _, make in drawing.jobs if drawing else ():
                make()
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return ''


def check_coco(files: Sequence[Path], test: bool) -> None:
    """A data set of COCO refuses a file by its name, or reads it."""
    for file in files:
        option = dict(type='mmdistill_dense.CocoDataset', ann_file=str(file), data_prefix=dict(img=''), test_mode=test)
        try:
            DATASETS.build(option | dict(metainfo=dict(classes=exports.CLASSES)))
        except ValueError as error:
            assert file.name in str(error)


@pytest.mark.sample(4)
@pytest.mark.parametrize('form', [*exports.BOXES, *exports.MASKS])
@pytest.mark.parametrize('count', [3, pytest.param(150, marks=pytest.mark.soak)])
def test_a_damaged_export_is_refused_in_one_line_or_counted(form: str, count: int, tmp_path: Path) -> None:
    """What is read, training and metric read alike."""
    init_default_scope('mmdet')
    count *= 4 if 'coco' in form else 1
    {**exports.BOXES, **exports.MASKS}[form](tmp_path / 'sound')
    sound = [path for path in (tmp_path / 'sound').rglob('*') if path.is_file()]
    labels = sorted(path for path in sound if path.suffix != '.jpg' or form in exports.MASKS)
    tasks = ['det'] * (form in exports.BOXES) + ['seg'] * (form in exports.OBJECTS or form in exports.MASKS)
    dice, read = random.Random(form), 0
    for number in range(count):
        root = shutil.copytree(tmp_path / 'sound', tmp_path / 'case')
        for file in dice.sample(labels, min(dice.choice([1, 1, 2]), len(labels))):
            (root / file.relative_to(tmp_path / 'sound')).write_bytes(mutated(dice, file, file.read_bytes()))
        check_coco([*root.rglob('*.json')] if 'coco' in form else [], bool(number % 2))
        signal.alarm(60)
        message = refusal(root, dice.choice(tasks))
        signal.alarm(0)
        assert not message or (message.startswith('--') and '\n' not in message), (number, message)
        read += not message
        shutil.rmtree(root)
    assert count < 100 or 0 < read < count
