"""Photographs with an EXIF orientation: each pixel of a picture, as the data set reads it, has its own label."""

import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from PIL import Image, ImageOps

from mmdistill_dense.apps.project.box_labels import find_box_data
from mmdistill_dense.apps.project.label_images import find_seg_data
from mmdistill_dense.registry import DATASETS
from tests.project.folders_of_data import label_file, save
from tests.project.written_data import write_config

COLOURS = np.array([(10, 10, 10), (240, 20, 20), (20, 240, 20)], np.uint8)
LYING = (5, 6, 7, 8)
BOX = (4, 2, 12, 6)  # x, y, width and height


def photograph(path: Path, field: np.ndarray, orientation: int | None) -> Image.Image:
    """Write the picture of a field of classes, and return the picture as viewers show it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tag = Image.Exif()
    if orientation is not None:
        tag[0x0112] = orientation
    Image.fromarray(COLOURS[field]).save(path, exif=tag)
    return ImageOps.exif_transpose(Image.open(path))


def classes_of(picture: np.ndarray) -> np.ndarray:
    return np.abs(picture[..., None, :].astype(int) - COLOURS).sum(-1).argmin(-1)


def seg_data(root: Path, orientation: int | None, drawn: str, count: int = 5) -> Path:
    for number in range(count):
        field = np.random.default_rng(number).integers(0, 3, (4, 4)).repeat(8, 0).repeat(8, 1)[:24]
        shown = photograph(root / f'images/{number}.png', field, orientation)
        label = field if drawn == 'ignore' else classes_of(np.asarray(shown))
        save(root / f'labels/{number}.png', label.astype(np.uint8))
    return root


def box_data(root: Path, orientation: int | None, drawn: str) -> Path:
    content = label_file([f'{number}.png' for number in range(5)], ['leaf'])
    content['annotations'] = content['annotations'][::2]
    for image, box in zip(content['images'], content['annotations'], strict=True):
        field = np.zeros((24, 32), int)
        x, y, width, height = BOX
        field[y : y + height, x : x + width] = 1
        shown = photograph(root / image['file_name'], field, orientation)
        if drawn == 'apply':
            field = classes_of(np.asarray(shown))
            rows, columns = np.nonzero(field)
            sides = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
            x, y, width, height = map(int, sides)
        image.update(height=field.shape[0], width=field.shape[1])
        box.update(bbox=[x, y, width, height], area=width * height)
    (root / 'instances.json').write_text(json.dumps(content))
    return root


def agreement(root: Path, task: str, exif: str | None) -> tuple[float, list[str]]:
    """The share of pixels that have their own label in the validation data that `new` writes, and its notes."""
    find = find_seg_data if task == 'seg' else find_box_data
    data = find(root, (), exif)
    config = write_config(data, root.parent / 'project')
    init_default_scope({'seg': 'mmseg', 'det': 'mmdet'}[task])
    dataset = DATASETS.build(config.val_dataloader.dataset)
    shares = []
    for one in dataset:
        picture, sample = one['inputs'].permute(1, 2, 0).numpy()[..., ::-1], one['data_samples']
        if task == 'seg':
            label = sample.gt_sem_seg.data[0].numpy()
        else:
            label = np.zeros(picture.shape[:2], int)
            factor = sample.scale_factor[0]
            x, y, x2, y2 = (round(float(value) * factor) for value in sample.gt_instances.bboxes.tensor[0])
            label[y:y2, x:x2] = 1
        shares.append((classes_of(picture) == label).mean())
    return min(shares), data.notes


@pytest.mark.parametrize('drawn', ['apply', 'ignore'])
@pytest.mark.parametrize(('task', 'orientation'), [
    *(('seg', number) for number in range(2, 9)), ('det', 3), ('det', 6),
])  # fmt: skip
def test_labels_fit_turned_pictures_or_the_user_is_asked(
    tmp_path: Path, task: str, orientation: int, drawn: str
) -> None:
    root = (seg_data if task == 'seg' else box_data)(tmp_path / 'mine', orientation, drawn)
    tells = orientation in LYING
    if not tells:
        with pytest.raises(ValueError, match='5 of 5 pictures have an EXIF .* Write --exif apply if .* --exif ignore'):
            agreement(root, task, None)
    share, notes = agreement(root, task, None if tells else drawn)
    assert share > 0.99
    stored = 'as they are stored' if drawn == 'ignore' else 'as EXIF turns them'
    assert any(note.startswith('WARNING: 5 of 5 pictures have an EXIF') and stored in note for note in notes)
    other = {'apply': 'ignore', 'ignore': 'apply'}[drawn]
    if tells:
        with pytest.raises(ValueError, match=f'--exif {other}: .* 5 labels fit --exif {drawn} alone'):
            agreement(root, task, other)
    else:
        assert agreement(root, task, other)[0] < 0.99


def test_nothing_is_said_of_pictures_that_no_tag_turns(tmp_path: Path) -> None:
    for orientation in (None, 1, 9):
        share, notes = agreement(seg_data(tmp_path / f'{orientation}/mine', orientation, 'ignore'), 'seg', None)
        assert share > 0.99 and not any('EXIF' in note for note in notes)


def test_labels_of_both_kinds_of_sides_are_refused(tmp_path: Path) -> None:
    seg_data(tmp_path, 6, 'apply')
    seg_data(tmp_path, 6, 'ignore', 2)
    with pytest.raises(ValueError, match=r'of 3 of them .* turned .* of 2 that of the stored one .*0.png.*exiftool'):
        find_seg_data(tmp_path)
    other = tmp_path / 'other'
    seg_data(other, None, 'ignore')
    Image.open(other / 'labels/0.png').rotate(90, expand=True).save(other / 'labels/0.png')
    with pytest.raises(ValueError, match='Its sides are swapped: turn it') as error:
        find_seg_data(other)
    assert 'Bring' not in str(error.value)
