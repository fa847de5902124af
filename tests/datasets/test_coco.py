"""COCO's format: missing files and wrong class names are one clear error."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdistill_dense.config.resolve import find_config
from mmdistill_dense.registry import DATASETS


def write(root: Path, names: tuple[str, ...] = ('disc', 'bar')) -> None:
    """A label file of one image, with one box of each class."""
    (root / 'images').mkdir()
    categories = [dict(id=10 + i, name=name) for i, name in enumerate(names)]
    boxes = [
        dict(id=i + 1, image_id=7, category_id=10 + i, bbox=[4 * i, 2, 8, 6], area=48, iscrowd=0)
        for i in range(len(names))
    ]
    images = [dict(id=7, file_name='a.jpg', width=64, height=48)]
    (root / 'labels.json').write_text(json.dumps(dict(images=images, annotations=boxes, categories=categories)))


def edit(root: Path, change: Callable[[dict], Any]) -> None:
    """Change the content of the label file; a text or list that the change returns takes its place."""
    content = json.loads((root / 'labels.json').read_text())
    new = change(content)
    (root / 'labels.json').write_text(new if isinstance(new, str) else json.dumps(content if new is None else new))


def each(kind: str, **new: object) -> Callable[[dict], None]:
    return lambda file: [row.update(new) for row in file[kind]] and None


def option(root: Path, classes: tuple[str, ...] = ('disc', 'bar')) -> dict:
    return dict(
        type='mmdistill_dense.CocoDataset', data_root=str(root), ann_file='labels.json',
        data_prefix=dict(img='images/'), metainfo=dict(classes=classes),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def scope() -> None:
    init_default_scope('mmdet')


def test_classes_are_numbered_in_the_order_of_the_file(tmp_path: Path) -> None:
    write(tmp_path)
    (info,) = [DATASETS.build(option(tmp_path)).get_data_info(0)]
    assert [(one['bbox_label'], one['bbox']) for one in info['instances']] == [(0, [0, 2, 8, 8]), (1, [4, 2, 12, 8])]
    only = DATASETS.build(option(tmp_path, ('bar',))).get_data_info(0)
    assert [instance['bbox_label'] for instance in only['instances']] == [0]


@pytest.mark.parametrize('classes', [('bar', 'disc'), ('disc', 'rod'), ('disc', 'bar', 'ring')])
def test_classes_that_are_not_the_files_are_refused(tmp_path: Path, classes: tuple[str, ...]) -> None:
    """mmdet would leave out the unknown ones, and number the others as the file does."""
    write(tmp_path)
    with pytest.raises(ValueError, match=r"metainfo.classes = .*ann_file holds the categories \['disc', 'bar'\]"):
        DATASETS.build(option(tmp_path, classes))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / 'images/b.jpg').touch()
    data = DATASETS.build(dict(option(tmp_path), pipeline=[dict(type='LoadImageFromFile')]))
    words = r'CocoDataset: .*images/a\.jpg does not exist.* data_prefix.* holds b\.jpg'
    with pytest.raises(FileNotFoundError, match=words):
        data[0]
    with pytest.raises(ValueError, match=r'labels\.json.*data_prefix = .* has no img'):
        DATASETS.build(dict(option(tmp_path), data_prefix=dict(img_path='images/')))
    (tmp_path / 'labels.json').unlink()
    with pytest.raises(FileNotFoundError, match=r'CocoDataset: ann_file = .*labels.json.*MMDISTILL_DATA'):
        DATASETS.build(option(tmp_path))
    (tmp_path / 'images').rename(tmp_path / 'elsewhere')
    with pytest.raises(FileNotFoundError, match=r'CocoDataset: data_prefix.img = .*images.* does not exist'):
        DATASETS.build(option(tmp_path))


def test_message_names_the_evaluator_that_reads_the_labels_too(tmp_path: Path) -> None:
    cfg = Config.fromfile(find_config('mmdistill_dense::_base_/datasets/bccd.py'))
    cfg.test_dataloader.dataset.data_root = str(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        DATASETS.build(cfg.test_dataloader.dataset)
    (key,) = re.findall(r'(\S+)=FILE', str(caught.value))
    before = cfg.test_evaluator.ann_file
    cfg.merge_from_dict({key: 'elsewhere.json'})
    assert cfg.test_evaluator.ann_file == 'elsewhere.json' != before


def numbered_from_0(file: dict) -> None:
    file['annotations'][0]['id'] = 0


@pytest.mark.parametrize(('change', 'test', 'words'), [
    (numbered_from_0, True, 'an annotation has the id 0.* even perfect predictions do not reach the full score'),
    (numbered_from_0, False, ''),
    (each('annotations', bbox=[4, 2, 0.5, 6]), True, '2 of 2 annotations have a bbox .* without width .*as missed'),
    (each('annotations', bbox=[90, 2, 8, 6]), True, '2 of 2 annotations have a bbox outside their picture'),
    (each('annotations', area=0), True, '2 of 2 annotations have the area 0'),
    (each('annotations', ignore=1), True, '2 of 2 annotations have the mark ignore'),
    (each('annotations'), True, ''),
])  # fmt: skip
def test_what_the_metric_would_count_otherwise_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict], Any], test: bool, words: str
) -> None:
    """Of label files that `new` did not write: training and metric of mmdet read other boxes."""
    lines: list[str] = []
    monkeypatch.setattr('mmdistill_dense.datasets.box_data.print_log', lambda line, *_: lines.append(line))
    write(tmp_path)
    edit(tmp_path, change)
    assert len(DATASETS.build(dict(option(tmp_path), test_mode=test))) == 1  # type: ignore[arg-type]
    assert len(lines) == bool(words) and all(re.search(words, line) for line in lines)


REFUSED: dict[str, tuple[Callable[[dict], Any], str]] = {  # what is made of the content of the file
    'cut': (lambda file: json.dumps(file)[:60], 'is damaged or not in the json format of COCO'),
    'nothing': (lambda file: '{}', 'is not in the json format of COCO.* has no list of images'),
    'no pictures': (lambda file: file.update(images=[], annotations=[]), 'lists no picture'),
    'no boxes': (lambda file: file['annotations'].clear(), r"holds no box of the classes \('disc', 'bar'\)"),
    'no annotations': (lambda file: file.pop('annotations') and None, 'holds no box'),
    'no area': (lambda file: file['annotations'][0].pop('area') and None,
                r'annotations\[0\] has no area.* is a dict of id, image_id'),
    'unknown category': (lambda file: file['annotations'][0].update(category_id=9),
                         '1 of 2 annotations have an unknown category_id: 9; the ids are 10, 11'),
    'two corners': (each('annotations', bbox=[40, 30, 60, 44]), '2 of 2 boxes .* not two corners'),
    'areas of 0': (each('annotations', area=0), r'nothing to train with \(2 of 2 annotations have the area 0\)'),
    'crowds': (each('annotations', iscrowd=1), r'nothing to train with \(all boxes are marked by iscrowd\)'),
    'texts as ids': (lambda file: [category.update(id=str(category['id'])) for category in file['categories']] and None,
                     'the ids of categories are texts.* Number them from 1'),
    'ids of two kinds': (lambda file: file['categories'][0].update(id='10'),
                         'some ids of categories are texts, others are numbers. Write all in one way'),
    'two pictures of one id': (lambda file: file['images'].append(dict(file['images'][0], file_name='b.jpg')),
                               r'two images have the id 7: a\.jpg and b\.jpg'),
}  # fmt: skip


@pytest.mark.parametrize('fault', REFUSED)
def test_what_nobody_could_train_with_is_refused(tmp_path: Path, fault: str) -> None:
    """Or what mmdet and pycocotools would read in silence, as other boxes."""
    write(tmp_path)
    change, words = REFUSED[fault]
    edit(tmp_path, change)
    with pytest.raises(ValueError, match=rf'labels\.json.*{words}'):
        DATASETS.build(option(tmp_path))


def test_files_to_be_tested_on_need_no_boxes_but_iscrowd(tmp_path: Path) -> None:
    """pycocotools reads it of every annotation; the training does without."""
    write(tmp_path, ())
    assert len(DATASETS.build(dict(option(tmp_path, ()), test_mode=True))) == 1  # type: ignore[arg-type]
    (tmp_path / 'images').rmdir()
    write(tmp_path)
    edit(tmp_path, lambda file: [annotation.pop('iscrowd') for annotation in file['annotations']] and None)
    assert len(DATASETS.build(option(tmp_path))) == 1  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r'labels\.json.*annotations\[0\] has no iscrowd'):
        DATASETS.build(dict(option(tmp_path), test_mode=True))
