"""Labels that contradict themselves, and what is left out of them: refused, or counted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from mmdistill_dense.apps.project.box_labels import BoxData, find_box_data
from mmdistill_dense.apps.project.label_images import find_seg_data
from tests.project import exports
from tests.project.faults import content, text
from tests.project.test_bad_labels import READ, YOLO, mask
from tests.project.test_formats import label_images

COCO = '*/_annotations.coco.json'

# Two statements of one fact


def annotations(data: BoxData) -> list[dict[str, Any]]:
    """Those of all parts."""
    files = [json.loads(split.content or (data.root / split.labels).read_text()) for split in data.splits.values()]
    return [{**one, 'id': 0} for file in files for one in file['annotations']]


def changed(root: Path, change: Callable[[dict[str, Any]], Any], each: int = 1) -> Path:
    """Roboflow's COCO with each n-th annotation changed."""
    exports.roboflow_coco(root)
    content(COCO, lambda found: [change(one) for one in found['annotations'][each // 2 :: each]])(root)
    return root


def filled(box: list[int]) -> np.ndarray:
    x, y, w, h = box
    mask = np.zeros(exports.SIZE, np.uint8)
    mask[y : y + h, x : x + w] = 1
    return mask


def lengths(mask: np.ndarray) -> dict[str, Any]:
    return {'size': list(exports.SIZE), 'counts': exports.runs(mask.ravel(order='F'))}


def corners(one: dict[str, Any]) -> None:
    x, y, w, h = (value // 3 for value in one['bbox'])
    one.update(bbox=[x, y, x + w, y + h], segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]])


CONTRADICTIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    'half the size': lambda one: one.update(segmentation=[[value / 2 for value in one['segmentation'][0]]]),
    'fractions': lambda one: one.update(segmentation=[[value / 64 for value in one['segmentation'][0]]]),
    'rows': lambda one: one.update(segmentation=dict(lengths(filled(one['bbox']).T), size=list(exports.SIZE))),
    'corners': corners,
    'x and y swapped': lambda one: one.update(bbox=[one['bbox'][place] for place in (1, 0, 3, 2)]),
}


@pytest.mark.parametrize('fault', CONTRADICTIONS)
def test_outlines_that_contradict_their_boxes_are_refused_or_counted(fault: str, tmp_path: Path) -> None:
    for task in READ:
        with pytest.raises(ValueError, match='bbox overlap by less than half.*one of both is wrong|without a pixel'):
            READ[task](changed(tmp_path / 'all', CONTRADICTIONS[fault]))
    notes = find_box_data(changed(tmp_path / 'some', CONTRADICTIONS[fault], 3)).notes
    assert any(
        re.match(r'WARNING: _annotations.coco.json: [1-3] of [69] outlines and their bbox overlap by less', note)
        for note in notes
    )


def test_run_lengths_are_read_in_both_forms(tmp_path: Path) -> None:
    def packed(one: dict[str, Any]) -> None:
        found = coco.encode(np.asfortranarray(filled(one['bbox'])))
        one['segmentation'] = dict(size=found['size'], counts=found['counts'].decode())

    for name, change in (
        ('lists', lambda one: one.update(segmentation=lengths(filled(one['bbox'])))),
        ('texts', packed),
    ):
        data = find_seg_data(changed(tmp_path / name, change))
        found = label_images(data, 'train', tmp_path / f'{name} out')['b']
        boxes = [exports.box(points) for _, points in exports.shapes('b')]
        assert all((found[top:bottom, left:right] > 0).all() for left, top, right, bottom in boxes)
        assert not any('WARNING' in note for note in data.notes)


# What is left out is counted


@pytest.mark.parametrize('task', READ)
def test_crowds_are_counted_and_a_class_of_crowds_alone_is_warned_of(task: str, tmp_path: Path) -> None:
    data = READ[task](changed(tmp_path / 'some', lambda one: one.update(iscrowd=1), 4))
    assert re.search(r'; 15 annotations, 12 used, 3 of iscrowd=1, neither learned nor scored \(\w', data.notes[0])
    leaves = changed(tmp_path / 'class', lambda one: one.update(iscrowd=int(one['category_id'] == 3)))
    assert any('but those of iscrowd=1, so nobody can learn it: leaf' in note for note in READ[task](leaves).notes)
    with pytest.raises(ValueError, match='all boxes of .* have iscrowd=1'):
        READ[task](changed(tmp_path / 'all', lambda one: one.update(iscrowd=1)))


def test_yolo_text_files_beside_the_pictures_are_read_too(tmp_path: Path) -> None:
    exports.ultralytics(tmp_path, polygons=False)
    before = annotations(find_box_data(tmp_path))
    for file in ('train/b', 'val/e'):
        (tmp_path / f'labels/{file}.txt').rename(tmp_path / f'images/{file}.txt')
    (tmp_path / 'images/val/d.txt').write_text('0 .5 .5 .1 .1')  # a second one
    (tmp_path / 'images/train/c.txt').write_text('a photo of 3 leaves')
    data = find_box_data(tmp_path)
    assert annotations(data) == before
    (told,) = (note for note in data.notes if 'second ones' in note)
    assert re.match(r'WARNING: 1 of 8 files are second ones of a picture; .*images/val/d.txt', told)
    assert ', 1 not read (images/train/c.txt); ' in data.notes[0]


def test_copies_of_an_object_are_left_out(tmp_path: Path) -> None:
    exports.ultralytics(tmp_path)
    before = annotations(find_box_data(tmp_path))
    file = tmp_path / YOLO
    file.write_text(f'{file.read_text()}\n{file.read_text()}')
    data = find_box_data(tmp_path)
    assert annotations(data) == before
    assert 'WARNING: 3 of 18 annotations have class, box and outline of another one; they are left out' in data.notes[1]


@pytest.mark.parametrize('name', [str.title, str.upper])
def test_yolo_folders_may_be_written_in_capitals(name: Callable[[str], str], tmp_path: Path) -> None:
    exports.ultralytics(tmp_path)
    before = annotations(find_box_data(tmp_path))
    for folder in ('images', 'labels'):
        (tmp_path / folder).rename(tmp_path / name(folder))
    text('data.yaml', '(train|val): images(.*)\n(train|val): images', rf'\1: {name("images")}\2\n\3: {name("images")}')(
        tmp_path
    )
    assert annotations(find_box_data(tmp_path)) == before


@pytest.mark.parametrize('kind', ['rotation', 'oriented_rectangle'])
def test_turned_boxes_of_labelme_are_read(kind: str, tmp_path: Path) -> None:
    exports.labelme(tmp_path)
    mask(shape_type=kind, points=[[5, 10], [30, 5], [33, 25], [8, 30]])(tmp_path)
    assert len(annotations(find_box_data(tmp_path))) == 15


def test_a_class_that_loses_all_its_objects_is_warned_of(tmp_path: Path) -> None:
    exports.labelme(tmp_path)
    leaf = '"label": "leaf", "points": (.*?), "shape_type": "'
    text('*/[abdeü]*.json', f'{leaf}[a-z]*', r'"label": "leaf", "points": \1, "shape_type": "line')(tmp_path)
    notes = find_box_data(tmp_path).notes
    assert 'WARNING: left out, no box in training: leaf (5 annotations are in other parts or left out)' in notes


def test_objects_without_a_pixel_draw_no_label_images(tmp_path: Path) -> None:
    def thin(one: dict[str, Any]) -> None:
        x, y, w, _ = one['bbox']
        one.update(segmentation=[[x, y, x + w, y, x + w, y + 0.01]], bbox=[x, y, w, 1.2])

    data = find_seg_data(changed(tmp_path / 'some', thin, 5))
    assert 'WARNING: 3 of 15 annotations have an outline without a pixel; they are left out' in data.notes[1]
    with pytest.raises(ValueError, match='all 9 annotations have an outline without a pixel'):
        find_seg_data(changed(tmp_path / 'all', thin))


def test_drawn_label_images_are_checked_as_those_that_are_there(tmp_path: Path) -> None:
    """The first class covers the others in each picture."""

    def whole(one: dict[str, Any]) -> None:
        one.update(segmentation=[[0, 0, 64, 0, 64, 48, 0, 48]], bbox=[0, 0, 64, 48])

    root = changed(tmp_path, whole)
    content('train/*.json', lambda found: found['images'].pop(2))(root)  # which has no objects
    content(COCO, lambda found: found['annotations'].sort(key=lambda one: -one['category_id']))(root)
    with pytest.raises(ValueError, match='label images that were looked at hold the value 1 alone'):
        find_seg_data(root)
