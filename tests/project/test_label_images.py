"""What is found in a folder of pictures and label images."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmdistill_dense.apps.project import label_values
from mmdistill_dense.apps.project.box_labels import find_box_data
from mmdistill_dense.apps.project.label_images import find_seg_data
from mmdistill_dense.apps.project.label_pairs import Patterns
from mmdistill_dense.apps.project.label_values import class_values
from mmdistill_dense.apps.project.splits import SplitRule
from tests.project.exports import save, write
from tests.project.folders_of_data import counts, label, picture, seg_folder


def test_a_folder_without_splits_is_divided_alike(tmp_path: Path) -> None:
    """A picture stays for training, however large the share that validates."""
    numbered(tmp_path, [*map(str, range(10))])
    first, second = find_seg_data(tmp_path), find_seg_data(tmp_path)
    assert first == second and counts(first) == {'train': 8, 'val': 2}
    assert not set(first.splits['train'].names) & set(first.splits['val'].names)
    assert counts(find_seg_data(tmp_path, rule=SplitRule.read('0.99'))) == {'train': 1, 'val': 9}


def test_names_come_from_a_list(tmp_path: Path) -> None:
    seg_folder(tmp_path)
    for text, classes, values in (
        ('sky\n-\nroad\n', ('sky', 'road'), (0, 2)),
        ('\ufeffsky\r\nleaf\r\nroad\r\n', ('sky', 'leaf', 'road'), ()),  # as Windows writes it
        ('0: ground\n1: red leaf\n2: 3\n', ('ground', 'red leaf', '3'), ()),  # numbers are no part of a name
        ('2, red\n0\tground\n1. tall leaf\n', ('ground', 'tall leaf', 'red'), ()),
    ):
        (tmp_path / 'classes.txt').write_bytes(text.encode())
        data = find_seg_data(tmp_path)
        assert (data.classes, data.values) == (classes, values)


def test_label_values_that_are_classes() -> None:
    classes_of_values = {
        (0, 1, 2): (0, 1, 2), (0, 2): (0, 1, 2), (0, 1, 4, 255): (0, 1, 2, 3, 4), (0, 255): (0, 255),
        (0, 38, 75): (0, 38, 75), (0,): (0, 1),
    }  # fmt: skip
    assert {actual: class_values(actual) for actual in classes_of_values} == classes_of_values


def test_masks_of_0_and_255_have_two_classes(tmp_path: Path) -> None:
    data = find_seg_data(seg_folder(tmp_path, (0, 255)), ['ground', 'leaf'])
    assert data.classes == ('ground', 'leaf') and data.values == (0, 255)
    for number in range(2):
        label(tmp_path / f'labels/val/{number}.png', (255,))
    assert find_seg_data(tmp_path, ['ground', 'leaf']).values == (0, 255), 'pictures of leaves alone measure that class'
    other = tmp_path / 'other'
    binary(other, *[(0, 1), (0, 255)] * 6, (0,))
    with pytest.raises(ValueError, match=r'6 label images hold 1, 6 others hold 0 and 255 \(.*1.png\), and none holds'):
        find_seg_data(other)
    for path in (other / 'masks').iterdir():
        pixels = np.array(Image.open(path))
        pixels[pixels == 255] = 2
        Image.fromarray(pixels).save(path)
    assert find_seg_data(other, ['ground', 'leaf', '-']).values == (0, 1), 'what the message advises'


def binary(root: Path, *values: Sequence[int]) -> Path:
    numbered(root, [str(number) for number in range(len(values))])
    for number, values_of_picture in enumerate(values):
        label(root / f'masks/{number}.png', values_of_picture, number)
    return root


@pytest.mark.parametrize('ignored', [(0, 1, 255), (0, 255)])
def test_what_is_ignored_is_told(tmp_path: Path, ignored: Sequence[int]) -> None:
    """An object in each second one: two label images with ignored pixels may have none of them by chance."""
    data = find_seg_data(binary(tmp_path, *[(0, 1), (0,)] * 4, ignored, ignored))
    share = 100 * np.mean([np.asarray(Image.open(path)) == 255 for path in (tmp_path / 'masks').iterdir()])
    assert f'255 stands in 2 of 10 label images, {share:.1f}% of the pixels, and is ignored' in data.notes
    assert len(data.classes) == 2 and data.values == ()


def numbered(root: Path, names: list[str], ending: str = '.png') -> Path:
    for number, name in enumerate(names):
        picture(root / f'images/{name}{ending}', number)
        label(root / f'masks/{name}.png', seed=number)
    return root


def test_a_missing_label_pairs_no_other_picture(tmp_path: Path) -> None:
    """Tiles are called alike but for their number."""
    numbered(tmp_path, [f'{tile}_{number}' for tile in 'ABCDE' for number in range(4)])
    (tmp_path / 'masks/A_0.png').unlink()
    data = find_seg_data(tmp_path)
    assert (data.img_suffix, data.seg_map_suffix) == (('.png',), '.png')
    assert sum(split.count for split in data.splits.values()) == 19
    assert 'the tree images and masks: 20 pictures, 19 used; 19 label images' in data.notes
    assert '1 of 20 pictures have no label image; they are left out (images/A_0.png)' in str(data.notes)
    assert all('A_0' not in split.names for split in data.splits.values())


@pytest.mark.parametrize(('pictures', 'labels'), [
    ('images/{year}/{split}/{year}{split}{number}.jpg', 'labels/{year}/{split}/{year}{split}{number}.png'),
    ('images/{split}_{year}/{year}{number}.jpg', 'labels/{split}_{year}/{year}{number}.png'),
    ('{split}/{year}{number}.png', '{split}/masks/{year}{number}.png'),
])  # fmt: skip
def test_a_part_of_several_folders_reads_its_own_pictures(tmp_path: Path, pictures: str, labels: str) -> None:
    pictures_of_part: dict[str, set[Path]] = {'train': set(), 'val': set()}
    for split in pictures_of_part:
        for year, number in ((2019, 0), (2019, 1), (2020, 2)):
            words = {'split': split, 'year': year, 'number': number}
            picture(tmp_path / pictures.format(**words), number)
            label(tmp_path / labels.format(**words), seed=number)
            pictures_of_part[split].add(tmp_path / pictures.format(**words))
    data = find_seg_data(tmp_path)
    assert {name: {picture for picture, _ in pairs} for name, pairs in data.pairs.items()} == pictures_of_part
    assert [len(split.names) for split in data.splits.values()] == [3, 3], 'the lists that a training reads'


@pytest.mark.parametrize(('pictures', 'labels', 'patterns'), [
    (['4.jpg'], ['4.bmp', '4.png'], ('**/images/**.jpg', '**/masks/**.bmp')),
    (['4.jpg'], ['4.png', '4_mask.png'], ('**/images/**.jpg', '**/masks/**.png')),
    (['4.bmp', '4.jpg'], ['4.png'], ('**/images/**.bmp', '**/masks/**.png')),
])  # fmt: skip
def test_several_label_images_of_one_picture_are_refused(
    tmp_path: Path, pictures: list[str], labels: list[str], patterns: tuple[str, str]
) -> None:
    """So are several pictures of one label image; the patterns that are shown choose."""
    for name in ('1', '2', '3'):
        picture(tmp_path / f'images/{name}{Path(pictures[0]).suffix}')
        label(tmp_path / f'masks/{name}{Path(labels[0]).suffix}')
        label(tmp_path / f'masks/{name}_color.png')
    assert sum(split.count for split in find_seg_data(tmp_path).splits.values()) == 3
    for name in pictures:
        picture(tmp_path / f'images/{name}')
    for name in labels:
        label(tmp_path / f'masks/{name}')
    shown = re.escape("--images='{}' --labels='{}'".format(*patterns))
    with pytest.raises(ValueError, match=f'images/4.* (two|2|have one) label image.*: {shown}'):
        find_seg_data(tmp_path)
    data = find_seg_data(tmp_path, patterns=Patterns.from_options(*patterns))
    pairs = [*data.pairs['train'], *data.pairs['val']]
    assert (tmp_path / 'images' / pictures[0], tmp_path / 'masks' / labels[0]) in pairs


@pytest.mark.parametrize('ending', ['.PNG', '.tif', '_mask.png'])
def test_a_label_image_of_another_ending_is_not_left_out(tmp_path: Path, ending: str) -> None:
    numbered(tmp_path, [str(number) for number in range(6)])
    (tmp_path / 'masks/5.png').rename(tmp_path / f'masks/5{ending}')
    if ending != '_mask.png':
        data = find_seg_data(tmp_path)
        assert data.drawing and len(data.drawing.jobs) == 6, 'written in one form, which mmseg reads'
        return
    with pytest.raises(FileNotFoundError, match=r'\(images/5.png\), and 1 label images have no picture \(masks/5_mask'):
        find_seg_data(tmp_path)


def with_palettes(root: Path, *palettes: Sequence[int]) -> Path:
    """Label images of 0, 1 and 2 with one palette after the other."""
    numbered(root, [str(number) for number in range(6)])
    for number in range(6):
        image = Image.open(root / f'masks/{number}.png')
        image.putpalette(palettes[number % len(palettes)])
        image.save(root / f'masks/{number}.png')
    return root


VOC = (0, 0, 0, 128, 0, 0, 0, 128, 0)


def test_a_number_of_two_colours_is_refused(tmp_path: Path) -> None:
    with_palettes(tmp_path, VOC)
    file = tmp_path / 'labelmap.txt'
    file.write_text('# label:color_rgb:parts:actions\ncat:128,0,0::\nnone:9,9,9::\ndog:0,128,0::\nbackground:0,0,0::\n')
    data = find_seg_data(tmp_path)
    assert (data.classes, data.values, data.drawing) == (('background', 'cat', 'dog'), (), None)
    assert find_seg_data(tmp_path, ['a', 'b', 'c']).classes == ('a', 'b', 'c')
    file.write_text('cat:128,0,0::\ndog:0,128,0::\n')
    with pytest.raises(ValueError, match=r'labelmap.txt names no class of the colour \(0, 0, 0\), .* the value 0'):
        find_seg_data(tmp_path)
    with_palettes(tmp_path, VOC, (0, 0, 0, 0, 128, 0, 128, 0, 0))
    with pytest.raises(ValueError, match=r' 1 is the colour \(128, 0, 0\) in .*png, and \(0, 128, 0\) in .*png\. If'):
        find_seg_data(tmp_path)


def test_folders_of_a_tree_may_be_links(tmp_path: Path) -> None:
    seg_folder(tmp_path / 'elsewhere')
    (tmp_path / 'mine').mkdir()
    for name in ('images', 'labels'):
        (tmp_path / f'mine/{name}').symlink_to(tmp_path / f'elsewhere/{name}')
        (tmp_path / f'elsewhere/{name}/test').symlink_to(tmp_path / f'elsewhere/{name}/val')
    (tmp_path / 'mine/again').symlink_to(tmp_path / 'mine')
    data = find_seg_data(tmp_path / 'mine')
    assert counts(data) == {'train': 4, 'val': 2, 'test': 2}
    other = tmp_path / 'other'
    seg_folder(other)
    (other / 'images/train/0.jpg').rename(other / 'images/train/\u00e9.jpg')
    (other / 'labels/train/0.png').rename(other / 'labels/train/e\u0301.png')
    assert counts(find_seg_data(other)) == {'train': 4, 'val': 2}


@pytest.mark.parametrize('splits', [('train',), ('train', 'val')])
def test_a_project_in_the_folder_of_the_data_is_none_of_them(tmp_path: Path, splits: Sequence[str]) -> None:
    data = find_seg_data(seg_folder(tmp_path, splits=splits))
    for name in ('suite.yaml', 'data.py'):
        (tmp_path / 'distil').mkdir(exist_ok=True)
        (tmp_path / 'distil' / name).touch()
    for name in ('labels.png', 'labels/train/9.png', 'work/predictions/drawn/0.jpg'):
        picture(tmp_path / 'distil' / name)
    for part in ('train', 'val'):
        (tmp_path / f'distil/{part}.txt').write_text(f'{part}\n')
    assert find_seg_data(tmp_path) == data


def test_values_that_no_pixel_has_are_said(tmp_path: Path) -> None:
    for values, shown, missing in (((1, 2, 3), '1, 2, 3', 'class_0 (0)'), ((0, 1, 3), '0, 1, 3', 'class_2 (2)')):
        data = find_seg_data(seg_folder(tmp_path, values))
        assert data.classes == ('class_0', 'class_1', 'class_2', 'class_3')
        assert any(note.startswith(f'4 classes, from the values {shown} in 6 of 6 label images') for note in data.notes)
        assert f'no pixel of the 6 label images that were looked at has: {missing}' in data.notes


@pytest.mark.parametrize('split', ['val', 'test'])
def test_a_class_that_does_not_train_is_warned_of(tmp_path: Path, split: str) -> None:
    seg_folder(tmp_path, splits=('train', 'val', 'test'))
    notes = find_seg_data(tmp_path).notes
    assert not any('Nobody can learn' in note or 'no folder for val' in note for note in notes)
    label(tmp_path / f'labels/{split}/0.png', (0, 1, 2, 3))
    (message,) = (note for note in find_seg_data(tmp_path, ['a', 'b', 'c', 'd']).notes if 'Nobody can learn' in note)
    assert message.startswith(f'WARNING: in label images for {split}, and in none') and ': d (3). ' in message


def test_smoothed_edges_are_no_classes(tmp_path: Path) -> None:
    seg_folder(tmp_path / 'many', values=range(60))
    assert len(find_seg_data(tmp_path / 'many').classes) == 60
    for file in seg_folder(tmp_path / 'mine').glob('labels/*/*.png'):
        drawn = np.zeros((48, 64), np.uint8)
        drawn[10:30, 10 : 20 + int(file.stem)] = 255
        small = Image.fromarray(drawn).resize((31, 23), Image.Resampling.BILINEAR)
        small.resize((64, 48), Image.Resampling.BICUBIC).save(file)
    with pytest.raises(ValueError, match=r'hold \d+ values, of which .*255 hold 9\d% of the pixels: .* --classes'):
        find_seg_data(tmp_path / 'mine')
    with pytest.raises(ValueError, match=r'--classes: 2 names .* They are \d+ values, of which .* smoothed edges'):
        find_seg_data(tmp_path / 'mine', ['ground', 'leaf'])


def test_a_rare_value_is_a_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seg_folder(tmp_path, values=(0, 38))
    label(tmp_path / 'labels/train/1.png', (0, 38, 75))
    monkeypatch.setattr(label_values, 'COUNTED', 2)
    monkeypatch.setattr(label_values, 'evenly', lambda files, most: list(files)[:: 1 if most > 2 else 3])
    data = find_seg_data(tmp_path)
    assert data.values == (0, 38, 75)
    assert any('the value 75 stands in one label image alone' in note for note in data.notes)


def test_the_column_of_a_table_that_names_pictures_is_read(tmp_path: Path) -> None:
    """Not the numbers of its rows, which spreadsheets and pandas write in front."""
    numbered(tmp_path, [*'012345'], '.jpg')
    (tmp_path / 'train.csv').write_text(',image,mask\n0,5.jpg,5.png\n1,3.jpg,3.png\n2,1.jpg,1.png\n')
    (tmp_path / 'val.csv').write_text(',image,mask\n3,0.jpg,0.png\n4,2.jpg,2.png\n')
    splits = find_seg_data(tmp_path).splits
    assert {part: sorted(split.names) for part, split in splits.items()} == {'train': [*'135'], 'val': [*'02']}


@pytest.mark.parametrize(('form', 'sides'), [
    ('masks', (1, 80)), ('masks', (80, 1)), ('masks', (2, 80)), ('outlines', (1, 80)), ('boxes', (1, 80)),
])  # fmt: skip
def test_a_side_of_one_pixel_is_refused_where_mmseg_would_fail(form: str, sides: Sequence[int], tmp_path: Path) -> None:
    for number in range(6):
        size = sides if number == 5 else (48, 64)
        save(tmp_path / f'images/{number}.png', np.full((*size, 3), number, np.uint8))
        drawn = np.arange(size[0] * size[1]).reshape(size) % 2
        if form == 'masks':
            save(tmp_path / f'labels/{number}.png', drawn.astype(np.uint8))
        else:
            write(tmp_path / f'labels/{number}.txt', '0 0 0 1 0 1 1 0 1' if number < 5 else '')
    if form == 'boxes' or min(sides) > 1:
        data = (find_box_data if form == 'boxes' else find_seg_data)(tmp_path)
        assert sum(split.count for split in data.splits.values()) == 6
        return
    with pytest.raises(ValueError, match=r'a side of one pixel: take out \S*images/5\.png\.$'):
        find_seg_data(tmp_path)


def test_further_pages_of_a_label_image_are_told(tmp_path: Path) -> None:
    numbered(tmp_path, [str(number) for number in range(6)])
    for path in sorted((tmp_path / 'masks').iterdir()):
        first = Image.open(path).copy()
        first.save(path.with_suffix('.tif'), save_all=True, append_images=[first] * (path.stem == '3'))
        path.unlink()
    (warning,) = (note for note in find_seg_data(tmp_path).notes if 'the first page is read alone' in note)
    assert 'of 1 label images' in warning and 'masks/3.tif' in warning


def rename_pictures(folder: Path, ending: str, names: str) -> None:
    for path in sorted(folder.glob('*.png')):
        if path.stem in names:
            path.rename(path.with_suffix(ending))


@pytest.mark.parametrize('ending', ['.gif', '.HEIC', '.ppm'])
def test_an_ending_that_is_not_read_is_named(ending: str, tmp_path: Path) -> None:
    """Where some or all pictures have it."""
    advice = rf'files end in {ending.lower()} \(.*: write \.png or \.jpg\.'
    for name in ('all', 'some'):
        numbered(tmp_path / name, list('012345'))
    rename_pictures(tmp_path / 'all/images', ending, '012345')
    with pytest.raises(ValueError, match=f'6 {advice}'):
        find_seg_data(tmp_path / 'all')
    for path in sorted((tmp_path / 'all/masks').iterdir()):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=f'no picture in it .* 6 {advice}'):
        find_seg_data(tmp_path / 'all')
    rename_pictures(tmp_path / 'some/images', ending, '25')
    (tmp_path / f'some/logo{ending}').touch()  # of no picture
    notes = find_seg_data(tmp_path / 'some').notes
    assert any(re.match(f'WARNING: 2 {advice}', note) for note in notes), notes
