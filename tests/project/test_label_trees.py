"""Public data sets of label images as they are downloaded: read by default or by two patterns, each pixel its class."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import init_default_scope

from mmdistill_dense.apps.project.label_images import find_seg_data
from mmdistill_dense.apps.project.label_pairs import Patterns
from mmdistill_dense.registry import DATASETS
from tests.project import exports
from tests.project.folders_of_data import counts
from tests.project.written_data import write_config

SIDE = 16
RGB = ((0, 0, 0), (255, 0, 0), (0, 255, 255))


@dataclass(frozen=True)
class Tree:
    """File names with ``{s}`` for a part, ``{d}`` for one of two folders and ``{n}`` for a number."""

    parts: str
    picture: str
    label: str
    patterns: tuple[str, str] = ('', '')  # none: read by default
    more: Sequence[str] = ()  # other images
    values: Sequence[int] | Sequence[tuple[int, ...]] = (0, 1, 2)  # of the classes, or their colours
    names: str = ''  # a file that names the colours; '-' for one that the user writes
    unlabelled: str = ''  # a part whose pictures have no label images
    gray: bool = False  # three equal channels; the last picture of a part has one


TREES = {
    'drive': Tree(
        'training test', '{s}/images/{n}_{s}.tif', '{s}/1st_manual/{n}_manual1.gif',
        more=['{s}/mask/{n}_{s}_mask.gif'], values=(0, 255)),
    'carvana': Tree('train', '{s}/a_{n}.jpg', 'train_masks/a_{n}_mask.gif', values=(0, 1)),
    'pets': Tree('', 'images/A_{n}.jpg', 'annotations/trimaps/A_{n}.png'),
    'isic 2018': Tree(
        'Training Validation', 'ISIC2018_Task1-2_{s}_Input/{s}{n}.jpg',
        'ISIC2018_Task1_{s}_GroundTruth/{s}{n}_segmentation.png', values=(0, 255)),
    'cityscapes': Tree(
        'train val', 'leftImg8bit/{s}/{d}/{d}_{n}_leftImg8bit.png', 'gtFine/{s}/{d}/{d}_{n}_gtFine_labelIds.png',
        more=['gtFine/{s}/{d}/{d}_{n}_gtFine_color.png', 'gtFine/{s}/{d}/{d}_{n}_gtFine_instanceIds.png'],
        values=(0, 7, 26)),
    'cityscapes, prepared': Tree(
        'train val', 'leftImg8bit/{s}/{d}/{d}_{n}_leftImg8bit.png', 'gtFine/{s}/{d}/{d}_{n}_gtFine_labelTrainIds.png',
        more=['gtFine/{s}/{d}/{d}_{n}_gtFine_color.png', 'gtFine/{s}/{d}/{d}_{n}_gtFine_labelIds.png'],
        values=(0, 1, 255)),
    'voc': Tree('', 'VOC/JPEGImages/{n}.jpg', 'VOC/SegmentationClass/{n}.png', more=['VOC/SegmentationObject/{n}.png']),
    'ade': Tree('training validation', 'images/{s}/ADE_{s}_{n}.jpg', 'annotations/{s}/ADE_{s}_{n}.png'),
    'loveda': Tree(
        'Train Val', '{s}/{d}/images_png/{n}.png', '{s}/{d}/masks_png/{n}.png', unlabelled='Test'),
    'potsdam': Tree(
        '', '2_Ortho_RGB/top_potsdam_2_{n}_RGB.tif', '5_Labels_for_participants/top_potsdam_2_{n}_label.tif',
        values=RGB, names='-'),
    'massachusetts': Tree(
        'train val test', 'tiff/{s}/{s}{n}_15.tiff', 'tiff/{s}_labels/{s}{n}_15.tif', values=RGB,
        names='label_class_dict.csv'),
    'deepglobe roads': Tree(
        'train', '{s}/{n}_sat.jpg', '{s}/{n}_mask.png', values=(0, 255), unlabelled='valid', gray=True),
    'deepglobe land': Tree(
        'train', '{s}/{n}_sat.jpg', '{s}/{n}_mask.png', ('train/*_sat.jpg', 'train/*_mask.png'), values=RGB,
        names='class_dict.csv'),
    'floodnet': Tree('train val', '{s}-org-img/{s}{n}.jpg', '{s}-label-img/{s}{n}_lab.png'),
    'uavid': Tree('uavid_train uavid_val', '{s}/{d}/Images/{n}.png', '{s}/{d}/Labels/{n}.png', values=RGB, names='-'),
    'bdd': Tree(
        'train val', 'images/10k/{s}/{s}{n}.jpg', 'labels/sem_seg/masks/{s}/{s}{n}.png', values=(0, 1, 255),
        more=['labels/sem_seg/colormaps/{s}/{s}{n}.png']),
    'camvid': Tree(
        '', '701_StillsRaw_full/0001TP_{n}.png', 'LabeledApproved_full/0001TP_{n}_L.png',
        ('701_StillsRaw_full/*.png', 'LabeledApproved_full/*_L.png'), values=RGB, names='label_colors.txt'),
    'camvid of segnet': Tree('train val test', '{s}/{s}{n}.png', '{s}annot/{s}{n}.png'),
    'chase': Tree(
        '', 'Image_{n}L.jpg', 'Image_{n}L_1stHO.png', ('Image_*.jpg', 'Image_*_1stHO.png'), ['Image_{n}L_2ndHO.png'],
        (0, 255)),
    'inria': Tree('train', '{s}/images/austin{n}.tif', '{s}/gt/austin{n}.tif', values=(0, 255), unlabelled='test'),
    'rellis': Tree(
        '', '{d}/pylon_camera_node/{n}.jpg', '{d}/pylon_camera_node_label_id/{n}.png',
        more=['{d}/pylon_camera_node_label_color/{n}.png'], values=(0, 3, 34)),
    'three channels': Tree('train val', '{s}/images/{s}{n}.jpg', '{s}/masks/{s}{n}.png', gray=True),
}  # fmt: skip


def save(root: Path, name: str, pixels: np.ndarray) -> Path:
    exports.save(root / name, pixels.astype(np.uint8))
    return root / name


def build(tree: Tree, root: Path) -> dict[Path, np.ndarray]:
    """Write a tree; return the class of each pixel by picture."""
    drawn = np.random.default_rng(0)
    palette = np.array([value if isinstance(value, tuple) else (value,) * 3 for value in tree.values], np.uint8)
    actual = {}
    for part in [*tree.parts.split(), tree.unlabelled] if tree.unlabelled else tree.parts.split() or ['']:
        for folder in ('a', 'b') if '{d}' in tree.picture else ('',):
            for number in range(3):
                words = {'s': part, 'd': folder, 'n': number}
                photo = drawn.integers(0, 255, (SIDE, SIDE, 3))
                picture = save(root, tree.picture.format(**words), photo)
                if part == tree.unlabelled and part:
                    continue
                classes = drawn.integers(0, len(tree.values), (SIDE, SIDE))
                classes[0, : len(tree.values)] = range(len(tree.values))
                colours = palette[classes]
                has_colours = tree.names or (tree.gray and number < 2)
                save(root, tree.label.format(**words), colours if has_colours else colours[..., 0])
                for name in tree.more:
                    drawn_on = 'color' in name or 'super' in name
                    save(root, name.format(**words), photo if drawn_on else 255 * (classes > 0))
                ignored = 1 in tree.values and colours[..., 0] == 255
                actual[picture] = np.where(ignored, 255, classes)
    if tree.names not in ('', '-'):
        name_colours(root / tree.names)
    return actual


def name_colours(file: Path) -> None:
    lines = ['name,r,g,b', *(f'c{number},{r},{g},{b}' for number, (r, g, b) in enumerate(RGB))]
    if file.suffix == '.txt':
        lines = [f'{r} {g} {b}\t\tc{number}' for number, (r, g, b) in enumerate(RGB)]
    file.write_text('\n'.join(lines))


@pytest.mark.parametrize('name', TREES)
def test_a_public_tree_is_read_pixel_by_pixel(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a training reads it; a tree that is unknown is refused with its patterns, or others that pair as many."""
    monkeypatch.chdir(tmp_path)
    tree, root, project = TREES[name], tmp_path / 'mine', tmp_path / 'project'
    truth, patterns = build(tree, root), Patterns.from_options(*tree.patterns)
    if patterns and tree.names != 'class_dict.csv':
        with pytest.raises(ValueError, match=f"Try --images='.*' --labels='.*': they pair {len(truth)} pictures"):
            find_seg_data(root)
    if tree.names == '-':
        with pytest.raises(ValueError, match='Name them in .*class_dict.csv'):
            find_seg_data(root, patterns=patterns)
        name_colours(root / 'class_dict.csv')
    data = find_seg_data(root, patterns=patterns)
    assert set(data.splits) >= {'train', 'val'} and sum(len(pair) for pair in data.pairs.values()) >= len(truth)
    assert ('createTrainIdLabelImgs.py of cityscapesscripts' in str(data.notes)) == (name == 'cityscapes')
    project.mkdir()
    if data.drawing:
        data.drawing.write(project)
    init_default_scope('mmseg')
    config, read = write_config(data, project), dict[Path, np.ndarray]()
    for part in data.splits:
        option = config[f'{part}_dataloader'].dataset
        keys = dict(meta_keys=('img_path',))
        for sample in DATASETS.build({**option, 'pipeline': [*option.pipeline[:1], dict(type='LoadAnnotations'),
                                                          dict(type='PackSegInputs', **keys)]}):  # fmt: skip
            read[Path(sample['data_samples'].img_path)] = sample['data_samples'].gt_sem_seg.data[0].numpy()
    assert read.keys() == truth.keys()
    for picture, classes in truth.items():
        np.testing.assert_array_equal(read[picture], classes, str(picture))


def test_parts_are_named_by_what_the_stars_matched(tmp_path: Path) -> None:
    for part in ('train', 'val'):
        for number in range(3):
            save(tmp_path, f'p/{part}_{number}.png', np.zeros((4, 4, 3)))
            save(tmp_path, f'q/{number}_{part}_m.png', np.eye(4))
    with pytest.raises(ValueError, match='match 6 pictures, and no label image of them'):
        find_seg_data(tmp_path, patterns=Patterns.from_options('p/*_*.png', 'q/*_*_m.png'))
    for file in (tmp_path / 'q').iterdir():
        number, part, _ = file.stem.split('_')
        file.rename(file.with_name(f'{part}_{number}_m.png'))
    data = find_seg_data(tmp_path, patterns=Patterns.from_options('p/*_*.png', 'q/*_*_m.png'))
    assert counts(data) == {'train': 3, 'val': 3}
    assert data.notes[0] == "--images='p/*_*.png' --labels='q/*_*_m.png': 6 pictures; 6 label images"


@pytest.mark.parametrize('patterns', [('p/*.*', 'q/*_m.*'), ('p/*', 'q/*_m'), ('p/*.JPG', 'q/*_m.*')])
def test_endings_need_not_be_written(tmp_path: Path, patterns: tuple[str, str]) -> None:
    for number in range(4):
        save(tmp_path, f'p/a.{number}.JPG', np.zeros((4, 4, 3)))  # the name has a point too
        save(tmp_path, f'q/a.{number}_m.png', np.eye(4))
    data = find_seg_data(tmp_path, patterns=Patterns.from_options(*patterns))
    assert sum(counts(data).values()) == 4 and data.classes == ('class_0', 'class_1')


def test_many_masks_a_picture_are_refused_with_what_would_work(tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path, f'stage1_train/id{number}/images/id{number}.png', np.zeros((4, 4, 3)))
        for mask in 'abc':
            save(tmp_path, f'stage1_train/id{number}/masks/{mask}{number}.png', np.eye(4) * 255)
    for patterns in (None, Patterns.from_options('*/*/images/*.png', '*/*/masks/*.png')):
        text = 'id0/masks 3: many masks a picture. Join them .*or write them as objects'
        with pytest.raises(ValueError, match=text):
            find_seg_data(tmp_path, patterns=patterns)


def test_patterns_that_cannot_be_are_refused() -> None:
    for images, labels, text in (
        ('a/*.jpg', '*/*.png', "--labels '.*' has 2 stars, --images .* has 1"),
        ('/a/*.jpg', '*.png', '--images .*: a pattern is a path below --data'),
        ('a/*.jpg', '../*.png', '--labels .*: a pattern is a path below --data'),
    ):
        with pytest.raises(ValueError, match=text):
            Patterns.from_options(images, labels)


@pytest.mark.parametrize(('images', 'labels', 'text'), [
    ('pictures/*.jpg', 'labels/*.png', "match nothing. It holds images/ .*Try --images='images/[*].jpg' --labels='mas"),
    ('images/*.jpg', 'mask/*.png', 'match 4 pictures, and no label image of them. It holds'),
    ('images/*.jpg', 'masks/1.png', r'images/0.jpg, images/1.jpg, images/2.jpg and 1 more have one label image'),
])  # fmt: skip
def test_patterns_that_find_nothing_show_the_tree(tmp_path: Path, images: str, labels: str, text: str) -> None:
    drawn = np.random.default_rng(0)
    for number in range(4):
        save(tmp_path, f'images/{number}.jpg', drawn.integers(0, 255, (SIDE, SIDE, 3)))
        save(tmp_path, f'masks/{number}.png', np.eye(SIDE))
    with pytest.raises(ValueError, match=text):
        find_seg_data(tmp_path, patterns=Patterns.from_options(images, labels))
