"""Label files with faults: what ``new`` writes in their place, and that training and metric read the same boxes."""

import codecs
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdistill_dense.apps.project.box_labels import BoxData, find_box_data
from mmdistill_dense.apps.project.label_images import find_seg_data
from mmdistill_dense.registry import DATASETS
from tests.project.folders_of_data import box_folder, changed, first_boxes
from tests.project.written_data import perfect_scores, write_config

Content, MAP = dict[str, Any], 'coco/bbox_mAP'


@pytest.fixture(autouse=True)
def scope() -> None:
    init_default_scope('mmdet')


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return box_folder(tmp_path / 'data')


def written(root: Path, out: Path) -> tuple[BoxData, Config]:
    """Write ``data.py`` and the label files of a folder, and read it."""
    data = find_box_data(root)
    return data, write_config(data, out)


def without(kind: str, *keys: str) -> Callable[[Content], None]:
    return lambda content: [row.pop(key) for row in content[kind] for key in keys]  # type: ignore[func-returns-value]


def listed_twice(content: Content) -> None:
    """One entry of a picture for each of its boxes."""
    pictures = list(content['images'])
    content['images'] = []
    for number, annotation in enumerate(content['annotations']):
        content['images'].append(dict(pictures[annotation['image_id']], id=number))
        annotation['image_id'] = number


def texts_as_ids_of_categories(content: Content) -> None:
    """pycocotools takes a text for a list of ids."""
    for kind, key in (('categories', 'id'), ('annotations', 'category_id')):
        for row in content[kind]:
            row[key] = f'c{row[key]}'


LEFT_OUT = {
    'no width': first_boxes(bbox=[5, 5, 0, 10]),
    'less than a pixel': first_boxes(bbox=[5, 5, 0.6, 10]),
    'negative height': first_boxes(bbox=[5, 5, 10, -4]),
    'NaN': first_boxes(bbox=[math.nan, 5, 10, 10]),
    'infinite': first_boxes(bbox=[5, 5, math.inf, 10]),
    'outside': first_boxes(bbox=[200, 5, 10, 10]),
    'above': first_boxes(bbox=[5, -20, 10, 10]),
    'of no picture': first_boxes(image_id=77),
}
MENDED = {
    'ids from 0': lambda content: [annotation.update(id=annotation['id'] - 1) for annotation in content['annotations']],
    'one id for two': first_boxes(id=9),
    'texts as ids of categories': texts_as_ids_of_categories,
    'ids as texts': lambda content: [one.update(id=str(one['id'])) for one in content['annotations']],
    'no id': without('annotations', 'id'),
    'no area': without('annotations', 'area'),
    'area 0': first_boxes(None, area=0),
    'no iscrowd': without('annotations', 'iscrowd'),
    'ignore': first_boxes(ignore=1),
    'no size of pictures': without('images', 'width', 'height'),
    'a picture for each box': listed_twice,
    'a group with the name of a class': lambda content: content['categories'].insert(0, {'id': 0, 'name': 'white'}),
}


@pytest.mark.parametrize('fault', [*LEFT_OUT, *MENDED])
def test_training_reads_the_boxes_of_the_metric(root: Path, fault: str, tmp_path: Path) -> None:
    changed(root, (LEFT_OUT | MENDED)[fault])
    data, config = written(root, tmp_path / 'out')
    assert perfect_scores(config)[MAP] == 1
    assert config.val_evaluator.ann_file == str(tmp_path / 'out/val.json')
    text = ' '.join(data.notes)
    assert 'train.json, val.json' in text
    assert ('4 of 24 annotations' in text and 'they are left out' in text) == (fault in LEFT_OUT)
    trained: Any = DATASETS.build(config.train_dataloader.dataset)
    assert len(trained) == data.splits['train'].count == 4
    boxes = [box for index in range(4) for box in trained.get_data_info(index)['instances']]
    assert len(boxes) == (14 if fault in LEFT_OUT else 16) and data.classes == ('red', 'white')
    assert sum(box['ignore_flag'] for box in boxes) == (2 if fault == 'ignore' else 0)
    written_boxes = json.loads(data.splits['train'].content)['annotations']
    assert all(box['area'] == box['bbox'][2] * box['bbox'][3] for box in written_boxes)


def without_ids(content: Content) -> list[Content]:
    return [{key: value for key, value in one.items() if key[-2:] != 'id'} for one in content['annotations']]


@pytest.mark.parametrize('line', [[], [1, 1], [1, 1, 2, 2]])
@pytest.mark.parametrize('place', [0, 1])
def test_parts_of_outlines_without_an_area_are_left_out(tmp_path: Path, line: list[int], place: int) -> None:
    root = box_folder(tmp_path, masks=True)
    sound = json.loads((root / 'annotations/instances_train.json').read_text())
    changed(root, lambda content: content['annotations'][3]['segmentation'].insert(place, line), ('train',))
    data = find_box_data(root)
    assert data.masks and without_ids(json.loads(data.splits['train'].content)) == without_ids(sound)
    assert 'WARNING: instances_train.json: 1 outlines had parts of fewer than three points: left out' in data.notes
    drawing = find_seg_data(root).drawing
    assert drawing and [make().max() for target, make in drawing.jobs if 'train' in target] == [2] * 4


def test_sound_files_stay_where_they_are(root: Path, tmp_path: Path) -> None:
    """Also annotations that are ignored in the same way by both, and boxes that reach beyond the picture a little."""
    changed(root, first_boxes(iscrowd=1))
    changed(root, lambda content: content['annotations'][-1]['bbox'].__setitem__(0, -5))
    data, config = written(root, tmp_path / 'out')
    assert len(data.notes) == 1 and not any(split.content for split in data.splits.values())
    assert config.val_evaluator.ann_file == str(root / 'annotations/instances_val.json')
    scores = perfect_scores(config)
    assert scores['coco/bbox_mAP'] == scores['coco/red_precision'] == scores['coco/white_precision'] == 1


def test_categories_have_the_order_of_training(root: Path, tmp_path: Path) -> None:
    def emptied(content: Content) -> None:
        content['annotations'] = [one for one in content['annotations'] if one['image_id'] not in (1, 2)]

    changed(root, emptied, ('train',))
    data, config = written(root, tmp_path / 'out')
    assert len(DATASETS.build(config.train_dataloader.dataset)) == data.splits['train'].count == 4  # type: ignore[arg-type]
    changed(root, lambda content: content['categories'].reverse(), ('val',))
    data, config = written(root, tmp_path / 'out')
    assert data.classes == ('red', 'white') and not data.splits['train'].content
    assert perfect_scores(config)[MAP] == 1 and config.val_evaluator.ann_file == str(tmp_path / 'out/val.json')


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_a_file_may_begin_with_a_byte_order_mark(root: Path, tmp_path: Path, encoding: str) -> None:
    file = root / 'annotations/instances_val.json'
    file.write_text(file.read_text(), encoding=encoding)
    assert file.read_bytes().startswith((codecs.BOM_UTF8, codecs.BOM_UTF16))
    data, config = written(root, tmp_path / 'out')
    assert perfect_scores(config)[MAP] == 1 and any('byte order mark' in note for note in data.notes)
    assert not data.splits['train'].content
