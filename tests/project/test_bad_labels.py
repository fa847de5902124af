"""Labels with one fault: one line that names the file, the line or the entry, or a count of what is left out."""

import re
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from mmdistill_dense.apps.project.box_labels import find_box_data
from tests.project import exports
from tests.project.exports import png
from tests.project.folders_of_data import (
    Write,
    both,
    box_folder,
    content,
    copied,
    first_boxes,
    gone,
    label,
    line,
    painted,
    renamed,
    seg_folder,
    shape_of_labelme,
    text,
    values,
    wrote,
)  # fmt: skip
from tests.project.written_data import READ

Case = tuple[Write, str, Write, str]  # export, tasks, fault, what is told
COCO, INSTANCES = 'train/_annotations.coco.json', 'annotations/instances_*.json'
entry = partial(values, COCO)
labelme, shape, mask = partial(values, 'train/b.json'), partial(shape_of_labelme, 0), partial(shape_of_labelme, 1)


def outline(shape: object) -> Write:
    return entry('annotations', 0, segmentation=shape)


def runs(counts: object, size: object = (48, 64)) -> Write:
    return outline({'size': size, 'counts': counts})


def without_data(root: Path) -> None:
    file = root / 'masks/train/b.png'
    file.write_bytes(file.read_bytes().replace(b'IDAT', b'ID\0T'))


def smoothed(image: Image.Image) -> Image.Image:
    """Mix colours at edges, as anti-aliasing does."""
    return image.resize((32, 24), Image.Resampling.BILINEAR).resize(image.size, Image.Resampling.BILINEAR)


def clear(image: Image.Image) -> Image.Image:
    image.putalpha(Image.fromarray(255 - 255 * np.eye(*exports.SIZE, dtype=np.uint8)))
    return image


def turned(root: Path) -> None:
    """A photograph that viewers turn on its side."""
    file = root / 'images/train/b.jpg'
    image = Image.open(file)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(file, exif=exif)


def zipped(root: Path) -> None:
    gone(*(path.name for path in root.iterdir()))(root)
    (root / 'export.zip').write_bytes(b'PK')


def of(export: Write, tasks: str, faults: Sequence[tuple[Write, str]]) -> list[Case]:
    return [(export, tasks, *fault) for fault in faults]


YOLO, VOC, COLOURS = 'labels/train/b.txt', 'Annotations/b.xml', 'labelmap.txt'
LISTS, OF_LABELME = 'ImageSets/Segmentation', '{"imagePath": "b.jpg", "shapes": []}'
BOMB = 'a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n'
NUMBERS = 1e9, -1e9, float('nan'), 'nan'
CONTENTS: list[tuple[Callable[[dict[str, Any]], object], str]] = [  # more of them: tests/datasets/test_coco.py
    (first_boxes(category_id='1'), r"category_id: '1'; the ids are 1, 2. It is a text here"),
    (lambda found: found['categories'].append('red'), r"categories\[2\] is 'red'. Each entry"),
    (first_boxes(bbox=['1', '2', '3', '4']), r'annotations\[0\].bbox is .*, not a list of four numbers'),
    (first_boxes(bbox=[1, 2, 3, 2**70]), r'annotations\[0\].bbox is \[1, 2, 3, \d+\], not a list of four numbers'),
    (first_boxes(image_id=[1]), r'annotations\[0\].image_id is \[1\], not a number or a text'),
    (first_boxes(None, bbox=[0.1, 0.1, 0.4, 0.5]), 'all boxes are fractions of the picture'),
    (first_boxes(None, bbox=[5, 5, 0, 0]), 'all .* annotations have .* without width or height'),
]  # fmt: skip
CASES: list[Case] = [
    *of(exports.ultralytics, 'det', [
        (line(YOLO, '-1 .5 .5 .1 .1'), r'b.txt, line 4 .*data.yaml names no class -1; it has 0, 1, 2'),
        *((line(YOLO, f'0 {share} .5 .1 .1'), rf'b.txt, line 4 .*{share} is no share of the picture')
          for share in (20.0, -3.0, 'nan')),
        (line(YOLO, '0 x .5 .1 .1'), r'b.txt, line 4 .*a line is a class number and shares'),
        (line(YOLO, '0 .5 .5'), r'b.txt, line 4 .*2 numbers after the class. A box has 4, a polygon 6'),
        (text('data.yaml', 'leaf', 'red cell'), r'data.yaml: names is .*one name of its own'),
        (line('data.yaml', '  - [: x'), r'data.yaml cannot be read'),
        (text('data.yaml', r'^(.|\n)*0: red cell', f'{BOMB}names:\n  0: *c'), 'data.yaml: it has aliases'),
        (text('data.yaml', 'images/val', 'images/eval'), r'data.yaml: val: images/eval is not there'),
        (gone('images/val/d.jpg', 'images/val/e.jpg'), r'data.yaml: val: images/val: no picture in it'),
        (line('data.yaml', 'nc: 4'), r'data.yaml: nc is 4, and names has 3 classes'),
        (copied('images/train/b.jpg', 'images/train/b.png'), r'b.jpg and .*b.png have one text file, .*b.txt'),
        (text('labels/train/a b.txt', '^0', '0.0'), r"a b.txt begins with '0.0 .*no row of YOLO"),
        (turned, r'b.jpg.*--exif'),
        (zipped, r'no picture in it or below it .*It holds export.zip'),
    ]),
    *of(exports.ultralytics, 'seg', [
        (line(YOLO, '0 .1 .1 .2 .2 .3 .3 .4'), r'b.txt, line 4 .*7 numbers after the class'),
        (line(YOLO, '0 .5 .5 .1 .1'), r'b.jpg has a box without a polygon or mask'),
    ]),
    *of(exports.darknet, 'det', [
        (gone('obj_train_data/b.jpg'), r'train.txt names 1 of 4 pictures .*obj_train_data/b.jpg'),
        (line('val.txt', 'data/obj_train_data/b.jpg'), r'1 pictures are in two parts of .*b.jpg \(train and val\)'),
        (line('obj.names', 'leaf'), r'obj.names lists leaf twice'),
        (lambda root: exports.picture(root / 'more/obj_train_data/b.jpg'), r"'data/obj_train_data/b.jpg' may be"),
    ]),
    *of(exports.voc_xml, 'det', [
        (text(VOC, '</annotation>', ''), r'b.xml cannot be read \(ParseError'),
        (text(VOC, r'<xmax>\d+', '<xmax>1'), r'b.xml: object 1 \(red cell\): xmax must be above xmin'),
        (text(VOC, r'<xmax>\d+', '<xmax>1e400'), r"xmax is '1e400', no number"),
        (text(VOC, '^', '<?xml version="1.0" encoding="gbk"?>'), 'b.xml: multi-byte'),
        (text(VOC, '^', '<?xml version="1.0" encoding="foo-8"?>'), 'b.xml cannot be read'),
        (text(VOC, '<xmax>(.*?)</xmax>', ''), r'b.xml: object 1 \(red cell\) has no bndbox with xmax\. Draw its box'),
        (text(VOC, r'<name>red cell(.*?)<xmax>\d+', r'<name>\1<xmax>1'), r'b.xml: object 1 has no name\. Name it'),
        (gone('JPEGImages/b.jpg'), r'1 of 6 xml files have no picture.*b.xml'),
        (text(VOC, '<width>64', '<width>63'), r'b.jpg has 48x63 .*it has 48x64'),
        (gone(VOC), r'1 of the 4 pictures in .*train.txt have no labels: .*b.jpg'),
        (copied(VOC, 'Annotations/more/b.xml'), r'1 pictures have labels twice in .*Annotations: .*b.jpg'),
        *((both(*(text(f'Annotations/{name}.xml', '<object>.*</object>|$', '') for name in names)),
           f'no box of .* for {part}, so it measures nothing') for part, names in exports.PARTS.items()),
    ]),
    *of(exports.labelme, 'det seg', [
        (text('train/b.json', r'\}$', ''), r'b.json'),
        (text('train/b.json', r'"shapes": \[', '"shapes": [3, '), r'b.json: shapes\[0\] is 3, no dict'),
        (shape(points=[[1, 1], [2, 2]]), r'b.json: shapes\[0\] \(red cell\): 2 points make no area'),
        *((shape(points=points), r'b.json: shapes\[0\] \(red cell\): its points are .*no pairs of numbers')
          for points in ([[1, 1, 1]] * 3, [1, 2, 3], [[1, 1], [float('nan'), 2], [3, 3]])),
        (shape(label=''), r'b.json: shapes\[0\] \(polygon\) has no label'),
        (shape(label=True), r'b.json: shapes\[0\]: the name of its class is .*no text. Write it in quotes'),
        (mask(mask=5), r'shapes\[1\] .* cannot be read'),
        (mask(mask=png(np.ones((4, 4, 3), np.uint8))), r'b.json: shapes\[1\] \([a-z-]+\): its mask has colours'),
        (mask(mask=png(np.ones((20, 20), bool))[:-40]), r'shapes\[1\] .* cannot be read'),
        (labelme(imageHeight=10**6, imageWidth=10**6), 'tells 1000000x1000000 pixels'),
        (labelme(imageHeight='48px'), 'height is'),
        (labelme(imageHeight=None), r'shapes\[1\] \([a-z-]+\) is a mask, and its file tells no height'),
        (labelme(shapes={}), r'b.json: shapes is \{\}, no list'),
    ]),
    *of(exports.roboflow_coco, 'det', [
        (wrote('train/b.jpg'), 'a file cannot be read as pictures: .*b.jpg'),
        (gone('train/b.jpg'), r'1 of the 4 pictures of .*b.jpg'),
        (content(COCO, lambda found: found['images'].append({**found['images'][0], 'id': 9, 'height': 24})),
         r'_annotations.coco.json: two entries of images tell two sizes of a b.jpg'),
    ]),
    *of(exports.roboflow_coco, 'seg', [
        (runs([0, 16], [4, 4]), r'a b.jpg has 48x64 pixels, a mask of it 4x4'),
        (both(text(COCO, '"b.jpg', '"b.png'), lambda root: exports.picture(root / 'train/b.png')),
         r'train/b.png is listed, but mmseg .* would read \S*/train/b.jpg. Give'),
    ]),
    *of(exports.roboflow_coco, 'det seg', [
        *((outline([[2, 2, 30, 2, value, 30, 2, 30]]), 'a point far beyond|is no number') for value in NUMBERS),
        *((runs(counts), 'run lengths that do not fill its size') for counts in (
            [5], [2**33], [-1, 48 * 64 + 1], [0.5, 48 * 64 - 0.5], [], '0', '`', '\x7f\n' * 40, [2**62])),
        (runs([5], ['48', '64']), '_annotations.coco.json: the segmentation of an annotation'),
        (outline({'counts': [5]}), 'holds what is no number'),
    ]),
    *of(exports.coloured, 'seg', [
        (painted('masks/train/*', smoothed), r'% of the pixels of .*png have a colour of no class'),
        (painted('masks/train/b.png', clear), r'b.png has transparent pixels'),
        (text(COLOURS, '128,0,0', 'red'), r'labelmap.txt: red cell has the colour .*red'),
        (text(COLOURS, r'(.|\n)*', ''), r'labelmap.txt lists no colour'),
        (text(COLOURS, '0,128,0', '128,0,0'), r'labelmap.txt: white-cell or its colour .* stands twice'),
        (painted('masks/train/b.png', lambda image: image.convert('L')),
         r'b.png has the mode L, and others are of colours'),
        (without_data, r'b.png'),
        (both(wrote('train.txt', 'a b\nd\n'), wrote('val.txt', 'e\n')),
         'the folders tell two splits: .*d.jpg is listed for train'),
    ]),
    *of(exports.voc_masks, 'seg', [
        (painted('SegmentationClass/b.png', lambda image: image.convert('RGB')),
         r'b.png has the mode RGB\. A label image has one channel'),
        (painted('SegmentationClass/b.png', lambda _: Image.fromarray(np.full(exports.SIZE, 1000, np.uint16))),
         r'b.png holds the value 1000'),
        (text(f'{LISTS}/val.txt', r'(.|\n)*', ''), r'val.txt names no picture'),
        (gone(f'{LISTS}/train.txt'), 'there is no train.txt beside'),
    ]),
    *of(exports.roboflow_masks, 'seg', [
        (text('_classes.csv', '3, leaf', ''), r'_classes.csv: 3 names .*but the label images have the values'),
        (text('_classes.csv', '3, leaf', '7, leaf'), r'_classes.csv: its lines are not a number and a name'),
    ]),
    *of(partial(seg_folder, splits=('train', 'val', 'test')), 'seg', [
        (lambda root: shutil.copytree(root / 'labels', root / 'masks'),
         '0.jpg has two label images, labels/test/0.png'),
        (renamed('labels/*/*', lambda path: f'{path.stem}.npy'), '.npy files are not read'),
        (renamed('labels/*/*', lambda path: f'{path.stem}.jpg'), 'JPEG, which changes values'),
        (lambda root: (root / 'classes.txt').write_bytes('Büsche'.encode('latin-1')), 'classes.txt is not .* UTF-8'),
        (wrote('classes.txt', '1 ground\n2 red\n3 green\n'),
         'its lines are not a number and a name, with the numbers 0, 1, 2, …, once each'),
        (lambda root: [label(root / f'labels/test/{number}.png', (255,)) for number in range(2)],
         'label images for test are 255, which is ignored'),
    ]),
    *of(box_folder, 'det', [
        *((content(INSTANCES, do), rf'instances_train\.json: .*{words}') for do, words in CONTENTS),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(('export', 'tasks', 'change', 'words'), CASES)
def test_a_fault_is_told_in_one_line(export: Write, tasks: str, change: Write, words: str, tmp_path: Path) -> None:
    export(tmp_path)
    change(tmp_path)
    for task in tasks.split():
        with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
            data = READ[task](tmp_path)
            if task == 'seg' and data.drawing:
                data.drawing.write(tmp_path / 'out')
        output = str(error.value)
        assert str(tmp_path) in output or ' Choose: --images=' in output, 'the place is named, or what shows it'
        assert output.startswith('--data') and '\n' not in output and len(output) < 800


@pytest.mark.parametrize(('export', 'change', 'words'), [
    (exports.ultralytics, text(YOLO, r'(.|\n)*', ''), '2 pictures show no object: background alone'),
    (exports.labelme, shape(shape_type='line'), '1 of 15 annotations are shapes of the kind line, which'),
    *((exports.labelme, shape(shape_type=kind, points=[[30, 30], [50, 40], [9, 9]][:count]), f'the kind {kind}, which')
      for kind in ('ellipse', 'box', 'cuboid') for count in (2, 3)),
    (exports.ultralytics, gone(YOLO), '2 pictures have no text file: nothing is in them'),
    (exports.ultralytics, line('data.yaml', 'test: images/none'), 'WARNING: test: images/none of data.yaml'),
    (exports.ultralytics, both(gone(YOLO), wrote('images/train/b.json', OF_LABELME)),
     'WARNING: 1 of 6 files have the name of .*, and are no files of .*b.json'),
    (exports.labelme, wrote('train/b.txt', '0 .5 .5 .1 .1'),
     'WARNING: 1 of 8 files have the name of .*, and are no files of .*b.txt'),
    (exports.voc_xml, text(VOC, '</name>', '</name><difficult>True</difficult>'), ', 13 used, 2 of iscrowd=1'),
    (exports.roboflow_coco, outline('x'), r'1 of 15 boxes have no polygon or mask \('),
    (exports.ultralytics, both(renamed('images/train/b.jpg', lambda _: 'b.gif'),
                               renamed('labels/val/d.txt', lambda _: 'd.TXT')),
     '^WARNING: 2 of 7 files hold objects of no picture; they are left out .*train/b.txt.*val/d.TXT'),
    (box_folder, content('annotations/instances_train.json', lambda found: found.update(
        annotations=[box for box in found['annotations'] if box['category_id'] == 1])),
     r'^WARNING: left out, no box in training: white \(4 annotations are in other parts or left out\)$'),
    (box_folder, content('annotations/instances_train.json',
                         lambda found: found['categories'].insert(0, {'id': 9, 'name': 'everything'})),
     '^left out, no box in training: everything$'),
    (box_folder, content('annotations/instances_train.json',
                         first_boxes(None, segmentation={'size': [64, 48], 'counts': [64 * 48]})),
     r'0.jpg has 48x64 pixels, a mask of it 64x48\.'),
    (box_folder, content('annotations/instances_val.json', lambda found: found.pop('annotations')),
     r'^WARNING: 1 of 2 files have images, but no list of annotations; they are left out \(\S*instances_val.json'),
    (box_folder, renamed('annotations/instances_val.json', lambda _: 'instances_eval.json'),
     r'^WARNING: 1 of 2 files say train, val or test neither by name nor .*/instances_eval.json'),
])  # fmt: skip
def test_what_is_left_out_is_counted(export: Write, change: Write, words: str, tmp_path: Path) -> None:
    export(tmp_path)
    assert not any(re.search(words, note) for note in find_box_data(tmp_path).notes)
    change(tmp_path)
    assert any(re.search(words, note) for note in find_box_data(tmp_path).notes)


@pytest.mark.parametrize('mode', ['L', 'RGB'])
@pytest.mark.parametrize(('export', 'task'), [(exports.coloured, 'seg'), (exports.ultralytics, 'det')])
def test_pictures_of_more_than_8_bits(export: Write, task: str, mode: str, tmp_path: Path) -> None:
    export(tmp_path)
    for file in list(tmp_path.glob('images/**/*.jpg')):
        deep = np.asarray(Image.open(file).convert(mode)).astype(np.uint16) * 16
        file.write_bytes(cv2.imencode('.tiff', deep)[1].tobytes())
    (words,) = (note for note in READ[task](tmp_path).notes if '16 bits' in note)
    assert re.search('trainings read the upper 8: at most 1[56] levels are left', words)
    file.write_bytes(cv2.imencode('.tiff', np.zeros((*exports.SIZE, 4), np.uint8))[1].tobytes())
    assert f'of 1 pictures trainings read three channels of one page ({file})' in str(READ[task](tmp_path).notes)
    for kind in (np.float32, np.int32):
        Image.fromarray(np.ones(exports.SIZE, kind)).save(file, 'TIFF')
        with pytest.raises(ValueError, match=f'{file.name} has 32 bits a channel, which trainings cannot read'):
            READ[task](tmp_path)


def test_an_archive_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / 'export.zip').write_bytes(b'PK')
    for read in READ.values():
        with pytest.raises(FileNotFoundError, match='export.zip: an archive. Unpack it, and give the folder'):
            read(tmp_path / 'export.zip')
