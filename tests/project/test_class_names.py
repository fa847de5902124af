"""Class names of every format are the texts that stand in the file, also those that YAML and JSON read as something
else; a name that says that it is no class is told."""

import json
import shlex
from functools import partial
from pathlib import Path

import pytest

from mmdistill_dense.apps.project.box_labels import find_box_data
from mmdistill_dense.apps.project.label_images import find_seg_data
from tests.project import exports
from tests.project.folders_of_data import Write, shape_of_labelme, text

ODD = ('on', '007', '1e3', '~', '1_000', '12:30', 'off', 'Yes', 'no', '012', '2024-01-01', '0x1f', 'null', '.inf', '=')
TRIPLES = [ODD[start : start + 3] for start in range(0, len(ODD), 3)]  # the exports have three classes


def listed(line: str) -> Write:
    """Label images of numbers with a list of names."""

    def export(root: Path) -> None:
        exports.voc_masks(root)
        names = enumerate(('background', *exports.CLASSES))
        exports.write(root / 'classes.txt', '\n'.join(line.format(number, name) for number, name in names))

    return export


def colour_rows(root: Path) -> None:
    """A json file with a list of colours, as some tools write it."""
    exports.coloured(root, 'colormap.json')
    colours = json.loads((root / 'colormap.json').read_text())
    exports.write(root / 'colormap.json', json.dumps([dict(name=name, color=rgb) for name, rgb in colours.items()]))


LABEL_MAP, NUMBERED = partial(exports.coloured, table='labelmap.txt'), listed('{0} {1}')
MASKS = {
    'lines': listed('{1}'), 'numbers': NUMBERED, 'roboflow': exports.roboflow_masks, 'labelmap': LABEL_MAP,
    'csv': partial(exports.coloured, table='class_dict.csv'), 'json': colour_rows,
}  # fmt: skip


@pytest.mark.parametrize(('form', 'names'), [  # YAML alone has so many kinds of words
    *(('ultralytics', names) for names in TRIPLES[2:]),
    *((form, names) for form in [*exports.BOXES, *MASKS] for names in TRIPLES[:2]),
])  # fmt: skip
def test_names_are_the_texts_of_the_file(
    form: str, names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if form == 'labelmap':  # a colon ends a name there
        names = tuple(name.partition(':')[0] for name in names)
    monkeypatch.setattr(exports, 'CLASSES', names)
    {**exports.BOXES, **MASKS}[form](tmp_path)
    if form in MASKS:
        assert find_seg_data(tmp_path).classes == ('background', *names)
    else:
        assert find_box_data(tmp_path).classes == names


@pytest.mark.parametrize(('names', 'classes'), [
    *((f'[{", ".join(names)}]', names) for names in TRIPLES),
    ('{0: 7, 1: 08, 2: 3.10}', ('7', '08', '3.10')),
    ("['on', \"007\", a b]", ('on', '007', 'a b')),
    ('{"0": x, 1: y, 2: z}', ('x', 'y', 'z')),
    ('{2: z, 1: y, 0: x}', ('x', 'y', 'z')),
    ('{0: x, 1: y, 1_0: z}', None),
    ('{0: x, 1: y, 01: z}', None),
    ('[x, y, ""]', None),
    ('[x, y, [z]]', None),
    ('data/obj.names', None),
])  # fmt: skip
def test_names_in_yaml(names: str, classes: tuple[str, ...] | None, tmp_path: Path) -> None:
    exports.ultralytics(tmp_path)
    text('data.yaml', r'names:(.|\n)*', f'nc: 3\nnames: {names}\n')(tmp_path)
    if classes:
        assert find_box_data(tmp_path).classes == classes
    else:
        with pytest.raises(ValueError, match='one name of its own'):
            find_box_data(tmp_path)


@pytest.mark.parametrize('number', [7, 0])
def test_a_number_of_json_is_a_name_if_no_digit_is_lost(number: int, tmp_path: Path) -> None:
    exports.labelme(tmp_path)
    shape_of_labelme(0, label=number)(tmp_path)
    assert find_box_data(tmp_path).classes == (*exports.CLASSES, str(number))


@pytest.mark.parametrize(('names', 'classes'), [
    ((7, 'b', 'c'), ('7', 'b', 'c')), ((0, 'b', 'c'), ('0', 'b', 'c')), ((' a', 'b\t', 'c'), ('a', 'b', 'c')),
    ((' a', 'a', 'c'), 'two categories have one name: a'), ((' ', 'b', 'c'), r"categories\[0\].name is '', not a text"),
    ((1e3, 'b', 'c'), r'categories\[0\]: the name of its class is 1000.0'), ((None, 'b', 'c'), 'has no name'),
])  # fmt: skip
def test_names_of_coco_are_trimmed_texts(
    names: tuple[object, ...], classes: str | tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, 'CLASSES', names)
    exports.cvat_coco(tmp_path)
    if isinstance(classes, str):
        with pytest.raises(ValueError, match=classes):
            find_box_data(tmp_path)
    else:
        assert find_box_data(tmp_path).classes == classes


# Names that are no class


@pytest.mark.parametrize('name', ['void', 'Ignore', '_unlabelled_', "don't care", 'background', 'avoid', 'ignored car'])
@pytest.mark.parametrize('form', ['numbers', 'csv', 'darknet'])
def test_a_class_that_is_none_by_its_name_is_told(
    form: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = form == 'darknet'
    names = ('sky', 'a road', name)
    monkeypatch.setattr(exports, 'CLASSES', names if boxes or name != 'background' else ('sky', 'a road', 'field'))
    {**exports.BOXES, **MASKS}[form](tmp_path)
    find = find_box_data if boxes else find_seg_data
    data = find(tmp_path)
    assert name in data.classes, 'and learned as before'
    hints = [note for note in data.notes if 'learned, and part of the mean score' in note]
    assert len(hints) == int(name not in ('avoid', 'ignored car') and (boxes or name != 'background'))
    for hint in hints:
        assert hint.startswith(f'{name}: ')
        words = shlex.split(hint.partition('--classes ')[2])
        rest = ['background'] * (not boxes) + ['sky', 'a road']
        assert words == rest + ['-'] * (form == 'numbers')
        assert find(tmp_path, words).classes == tuple(rest)


def test_a_single_class_beside_void_gets_no_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, 'CLASSES', ('void', 'ignore', 'undefined'))
    NUMBERED(tmp_path)
    assert not any('learned, and part' in note for note in find_seg_data(tmp_path).notes)


def test_a_detector_may_learn_one_class_beside_void(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, 'CLASSES', ('void', 'background', 'car'))
    exports.cvat_coco(tmp_path)
    assert any(note.endswith('--classes car') for note in find_box_data(tmp_path).notes)
    assert find_box_data(tmp_path, ['car']).classes == ('car',)
