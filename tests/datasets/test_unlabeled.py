"""A folder of pictures without labels: what is found, what is left out, what happens to a damaged file."""

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.logging import MMLogger
from PIL import Image
from torch.utils.data import DataLoader

from mmdistill_dense.registry import DATASETS
from mmdistill_dense.unlabelled.pictures import UnlabeledImages

LOAD = [dict(type='LoadImageFromFile')]


def write(path: Path, level: int = 0, size: tuple[int, int] = (40, 50)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*size, 3), level, np.uint8))


def build(root: Path, **options: object) -> UnlabeledImages:
    option = dict(type='mmdistill_dense.UnlabeledImages', data_root=str(root), pipeline=LOAD)
    return DATASETS.build(option | options)


def names(dataset: UnlabeledImages, root: Path) -> list[str]:
    paths = [dataset.get_data_info(index)['img_path'] for index in range(len(dataset))]
    return [Path(path).relative_to(root).as_posix() for path in paths]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ('b.png', 'n02/z.JPEG', 'n01/a.jpg', 'n01/deep/c.png', '.hidden.png', '.cache/d.png'):
        write(tmp_path / name)
    (tmp_path / 'notes.txt').write_text('no picture')
    return tmp_path


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Messages of warning level that reach mmengine's logger, whatever level earlier tests have left it."""
    logger, messages = MMLogger.get_current_instance(), []
    monkeypatch.setattr(logger, 'level', logging.INFO)
    logger.setLevel(logging.INFO)  # forgets what it remembers of the old level
    monkeypatch.setattr(
        logger,
        'handle',
        lambda record: messages.append(record.getMessage()) if record.levelno >= logging.WARNING else None,
    )
    return messages


def test_a_tree_is_listed_in_the_order_of_its_names(root: Path) -> None:
    dataset = build(root)
    assert names(dataset, root) == ['b.png', 'n01/a.jpg', 'n01/deep/c.png', 'n02/z.JPEG']
    assert dataset[0]['img'].shape == (40, 50, 3)


def test_links_are_followed_but_for_circles(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (root / 'n02/above').symlink_to(root)
    other = tmp_path_factory.mktemp('other')
    write(other / 'y.png')
    (root / 'linked').symlink_to(other)
    assert names(build(root), root) == ['b.png', 'linked/y.png', 'n01/a.jpg', 'n01/deep/c.png', 'n02/z.JPEG']


def test_what_is_looked_at_can_be_narrowed(root: Path) -> None:
    assert names(build(root, extensions=['.jpeg']), root) == ['n02/z.JPEG']
    assert names(build(root, data_prefix='n01'), root) == ['n01/a.jpg', 'n01/deep/c.png']
    assert names(build(root, data_prefix=['n02', 'n01']), root) == ['n02/z.JPEG', 'n01/a.jpg', 'n01/deep/c.png']
    assert names(build(root, indices=2), root) == ['b.png', 'n01/a.jpg']


def test_a_list_is_taken_in_its_order(root: Path) -> None:
    (root / 'list.txt').write_text('deep/c.png\n\na.jpg\n')
    assert names(build(root, data_prefix='n01', ann_file='list.txt'), root) == ['n01/deep/c.png', 'n01/a.jpg']
    with pytest.raises(ValueError, match='ann_file goes with one data_prefix'):
        build(root, data_prefix=['n01', 'n02'], ann_file='list.txt')


def test_useless_files_are_left_out_with_one_line(
    root: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / 'broken.jpg').write_bytes(b'')
    (root / 'text.png').write_text('no picture either')
    write(root / 'dot.png', size=(8, 300))
    dataset = build(root)
    assert len(dataset) == 4
    (line,) = warnings
    assert 'left out 3 of 7 files' in line
    assert '2 unreadable, e.g.' in line
    assert '1 smaller than 32 pixels, e.g.' in line
    assert len(build(root, min_size=8)) == 5
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10)
    assert len(build(root, min_size=8)) == 5, 'a size that Pillow refuses is none that OpenCV does'
    assert len(build(root, check=False)) == 7


@pytest.mark.parametrize('workers', [0, 2])
def test_a_damaged_file_is_replaced_and_counted(root: Path, warnings: list[str], workers: int) -> None:
    (root / 'a_broken.jpg').write_bytes(b'\xff\xd8 and then nothing')
    dataset = build(root, check=False)
    loader = DataLoader(
        dataset, 1, sampler=DefaultSampler(dataset, shuffle=False), num_workers=workers, collate_fn=pseudo_collate
    )
    for _ in range(2):
        read = [batch['img_path'][0] for batch in loader]
        assert len(read) == 5
        assert all('a_broken' not in path for path in read)
    assert int(dataset.damaged) >= 2
    if workers == 0:
        assert next(line for line in warnings if 'a_broken' in line).startswith('UnlabeledImages: 1 damaged files')
        assert len(warnings) <= 2  # the 1st and, with bad luck in the draw, the 10th


def test_a_mistake_in_the_pipeline_is_no_damaged_file_and_a_grey_picture_neither(root: Path) -> None:
    def wrong(results: dict) -> dict:
        raise KeyError('a mistake')

    with pytest.raises(KeyError, match='a mistake'):
        build(root, pipeline=[*LOAD, wrong])[0]
    (root / 'n03').mkdir()
    cv2.imwrite(str(root / 'n03/grey.png'), np.full((40, 40), 7, np.uint8))
    cv2.imwrite(str(root / 'n03/alpha.png'), np.full((40, 40, 4), 7, np.uint8))
    dataset = build(root, data_prefix='n03')
    assert [dataset[index]['img'].shape for index in range(2)] == [(40, 40, 3)] * 2


def test_nothing_found_says_where_and_what(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'no picture to use in .* 0 files of extensions \.jpg, \.jpeg'):
        build(tmp_path)
    with pytest.raises(FileNotFoundError, match='data_root = .*gone.* does not exist .*MMDISTILL_DATA'):
        build(tmp_path / 'gone')
    with pytest.raises(FileNotFoundError, match='ann_file = .*list.txt'):
        build(tmp_path, ann_file='list.txt')
