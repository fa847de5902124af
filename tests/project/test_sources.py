"""Frames of one video and tiles of one scene stay in one part, and pictures that are numbered by chance do not."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from mmdistill_dense.apps.project.box_labels import BoxData, find_box_data
from mmdistill_dense.apps.project.label_images import SegData, find_seg_data
from mmdistill_dense.apps.project.picture_folders import Wish, free_pictures
from mmdistill_dense.apps.project.picture_sources import note_of, two_parts
from tests.project.folders_of_data import label, label_file, picture

WORDS, FOUR, TEN, TWENTY = ('park', 'quay', 'road', 'shop', 'yard'), range(4), range(10), range(20)
TILES = [(256 * (place % 5), 256 * (place // 5)) for place in TEN]
OF_SOURCES = {
    'frames': [[f'video{video}_frame_{frame:06}.png' for frame in TEN] for video in FOUR],
    'frames of words': [[f'{word}-frame{frame}.png' for frame in TEN] for word in WORDS],
    'frames in folders': [[f'cam {cam}/frame_{frame}.png' for frame in TEN] for cam in FOUR],
    'numbers in folders': [[f'clip{clip}/{frame:05}.png' for frame in TEN] for clip in FOUR],
    'numbers': [[f'clip{clip}_{frame:04}.png' for frame in TEN] for clip in FOUR],
    'not latin': [[f'видео{clip}_{frame:04}.png' for frame in TEN] for clip in FOUR],
    'ffmpeg': [[f'{word}-{frame:04}.png' for frame in range(996, 1006)] for word in WORDS],
    'roboflow': [[f'{word}_mp4-{frame}_jpg.rf.{copy}.jpg' for frame in TEN for copy in ('a1', 'b2')] for word in WORDS],
    'CamVid': [[f'{drive}_{frame:06}.png' for frame in range(6690, 6990, 30)] for drive in ('0001TP', '16E5', 'Seq05')],
    'Cityscapes': [[f'bonn_{drive:06}_{frame:06}_leftImg8bit.png' for frame in TEN] for drive in FOUR],
    'DOTA': [[f'P{scene:04}__1__{x}___{y}.png' for x, y in TILES] for scene in FOUR],
    'tiles of scenes': [[f'scene{scene}_{x}_{y}.png' for x, y in TILES] for scene in FOUR],
    'tiles of words': [[f'{word}_{x}_{y}.png' for x, y in TILES] for word in WORDS],
    'tiles with corners': [[f'area_2_{scene}_{x}_{y}_{x + 512}_{y + 512}.png' for x, y in TILES] for scene in FOUR],
    'rows and columns': [[f'{word}_r{number}_c{number % 3}.png' for number in TEN] for word in WORDS],
    'named tiles': [[f'{word}_tile_{number}.png' for number in TEN] for word in WORDS],
}
BY_CHANCE = {
    'camera': [f'IMG_{number:04}.jpg' for number in range(1, 101)],
    'two cameras': [f'{camera}{number:04}.jpg' for camera in ('IMG_', 'DSC') for number in range(1, 51)],
    'days': [f'IMG_2023050{day}_12{number * 7:04}.jpg' for day in FOUR for number in TWENTY],
    'COCO': [f'{17 * number:012}.jpg' for number in range(1, 101)],
    'COCO 2014': [f'COCO_train2014_{17 * number:012}.jpg' for number in range(1, 101)],
    'VOC': [f'{year}_{number:06}.jpg' for year in range(2007, 2012) for number in TWENTY],
    'one plant': [f'leaf_{number:03}.jpg' for number in range(1, 101)],
    'kinds': [f'{kind}_{number:03}.jpg' for kind in ('cat', 'cow', 'dog', 'elk', 'hen') for number in TWENTY],
    'kinds in folders': [f'{kind}/{number:03}.jpg' for kind in ('cat', 'cow', 'dog', 'elk') for number in TWENTY],
    'numbered kinds': [f'class{kind}_{number:03}.jpg' for kind in range(5) for number in TWENTY],
    'ImageNet': [f'n0{kind}084071_{number}.jpg' for kind in range(5) for number in TWENTY],
    'KITTI': [f'{number:06}_10.png' for number in range(100)],
    'nothing': [f'{number}.png' for number in range(100)],
}


def paths(names: Sequence[str]) -> list[str]:
    return [f'/mine/images/{name}' for name in names]


@pytest.mark.parametrize('sources', OF_SOURCES.values(), ids=OF_SOURCES)
def test_pictures_of_one_source_stay_in_one_part(sources: list[list[str]]) -> None:
    train, val = two_parts(paths([name for source in sources for name in source]), Path('mine'))
    parts = [{part for name in source for part, own in enumerate((train, val)) if f'/mine/images/{name}' in own}
             for source in sources]  # fmt: skip
    assert all(len(one) == 1 for one in parts) and parts.count({1}) == 1
    (note,) = note_of(train, val)
    assert note.startswith(f'names tell {len(sources)} sources (') and note.endswith(
        f'each in one part: {len(sources) - 1} train, 1 val'
    )


@pytest.mark.parametrize('names', BY_CHANCE.values(), ids=BY_CHANCE)
def test_numbered_pictures_are_divided_one_by_one(names: list[str]) -> None:
    """By the pictures alone: the same numbers give the same parts, whatever the names say."""
    train, val = two_parts(paths(names), Path('mine'))
    plain = two_parts([f'{number:04}' for number in range(len(names))], Path('mine'))
    places = {name: f'{number:04}' for number, name in enumerate(sorted(paths(names)))}
    assert ([places[name] for name in train], [places[name] for name in val]) == plain
    assert note_of(train, val) == []


@pytest.mark.parametrize('sources', [
    pytest.param([TEN], id='one'), pytest.param([TEN, TEN], id='two'), pytest.param([range(1), TWENTY], id='tiny'),
])  # fmt: skip
def test_too_few_sources_are_divided_with_a_warning(sources: list[range]) -> None:
    names = paths([f'video{video}_frame_{frame}.png' for video, frames in enumerate(sources) for frame in frames])
    train, val = two_parts(names, Path('mine'))
    assert len(val) == round(len(names) / 5)
    (note,) = note_of(train, val)
    assert re.match('WARNING: by their names, pictures may be frames of a video or .*--split FOLDER', note)


def test_sources_of_other_sizes_come_near_to_the_share() -> None:
    sizes = (1, 40, 7, 22, 3, 27)
    names = paths([f'video{video}_frame_{frame}.png' for video, size in enumerate(sizes) for frame in range(size)])
    for share in (0.1, 0.2, 0.3, 0.5):
        train, val = two_parts(names, Path('mine'), share)
        assert sorted(train + val) == sorted(names) and share / 2 <= len(val) / len(names) <= 2 * share
        assert 'WARNING' not in note_of(train, val)[0]


def test_three_pictures_leave_two_for_training() -> None:
    for names in (['a1_frame_0', 'a2_frame_0', 'a2_frame_1'], ['a', 'b', 'c']):
        assert [len(part) for part in two_parts(paths(names), Path('mine'))] == [2, 1]


def video_data(root: Path, task: str, videos: int, empty: Sequence[int] = ()) -> BoxData | SegData:
    """Ten frames of each video, the ``empty`` ones without a box."""
    names = [f'video{video}_frame_{frame:03}.jpg' for video in range(videos) for frame in TEN]
    for number, name in enumerate(names):
        picture(root / f'images/{name}', number)
        if task == 'seg':
            label(root / f'labels/{name[:-4]}.png', seed=number)
    if task == 'seg':
        return find_seg_data(root)
    content = label_file(names, ['cell'])
    content['annotations'] = [one for one in content['annotations'] if one['image_id'] not in empty]
    (root / 'labels.json').write_text(json.dumps(content))
    return find_box_data(root)


def videos_of(data: BoxData | SegData) -> dict[str, set[str]]:
    return {part: {Path(path).name.partition('_')[0] for path in own} for part, own in data.pictures.items()}


@pytest.mark.parametrize('task', ['seg', 'det'])
def test_new_tells_the_sources_it_divides(task: str, tmp_path: Path) -> None:
    data = video_data(tmp_path / 'four', task, 4)
    parts = videos_of(data)
    assert not parts['train'] & parts['val'] and [len(own) for own in parts.values()] == [3, 1]
    assert any(note.startswith('names tell 4 sources (video0, video1, video2 and 1 more)') for note in data.notes)
    data = video_data(tmp_path / 'one', task, 1)
    assert sum(note.startswith('WARNING: by their names, pictures may be frames') for note in data.notes) == 1


def test_frames_without_a_box_stay_with_their_video(tmp_path: Path) -> None:
    empty = [10 * video + frame for video in FOUR for frame in (3, 4, 5, 6, 7)]
    data = video_data(tmp_path, 'det', 4, empty)
    parts = videos_of(data)
    assert not parts['train'] & parts['val'] and [len(own) for own in data.pictures.values()] == [30, 10]


def test_lists_of_the_user_are_taken_as_they_are(tmp_path: Path) -> None:
    video_data(tmp_path, 'det', 1)
    for part, frames in (('train', range(8)), ('val', (8, 9))):
        (tmp_path / f'{part}.txt').write_text(''.join(f'video0_frame_{frame:03}\n' for frame in frames))
    data = find_box_data(tmp_path, wish=Wish.read(str(tmp_path)))
    assert not any('frames of a video' in note or 'names tell' in note for note in data.notes)


@pytest.mark.parametrize(('videos', 'left'), [(4, 3), (1, 1)])
def test_frames_beside_those_for_val_are_not_taught_on(videos: int, left: int, tmp_path: Path) -> None:
    """Of a single video all are: its frames train too."""
    data = video_data(tmp_path / 'mine', 'seg', videos)
    for number, name in enumerate(f'video{video}_frame_{frame}.jpg' for video in range(videos) for frame in (500, 900)):
        picture(tmp_path / f'more/{name}', 100 + number)
    free = free_pictures(str(tmp_path / 'more'), data.pictures, data.label_images, 2)
    assert free.count == 2 * left
    assert free.left_out == ('2 of videos or scenes that validate or test' if videos > 1 else '')
    assert not {name.partition('_')[0] for name in free.names} & (videos_of(data)['val'] - videos_of(data)['train'])
