"""Frames of one video and tiles of one scene stay in one part, and pictures that are numbered by chance do not."""

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from mmdistill_dense.apps.project import splits
from mmdistill_dense.apps.project.box_labels import BoxData, find_box_data
from mmdistill_dense.apps.project.label_images import SegData, find_seg_data
from mmdistill_dense.apps.project.splits import FORMS, SplitRule, draw_split, find_sources, free_pictures, siblings
from tests.project.folders_of_data import label, label_file, picture

WORDS, FIVE, TEN, TWENTY = ('park', 'quay', 'road', 'shop', 'yard'), range(5), range(10), range(20)
TILES = [(256 * (index % 5), 256 * (index // 5)) for index in TEN]
OF_SOURCES = {
    'frames': [[f'video{video}_frame_{frame:06}.png' for frame in TEN] for video in FIVE],
    'frames of days': [[f'rec_2024010{day}_{frame:05}.jpg' for frame in TEN] for day in FIVE],
    'tasks of CVAT': [[f'task_{task}/images/frame_{frame:06}.png' for frame in TEN] for task in FIVE],
    'numbers in folders': [[f'clip{clip}/train/{frame:05}.png' for frame in TEN] for clip in FIVE],
    'numbers': [[f'clip{clip}-{frame:04}.png' for frame in TEN] for clip in FIVE],
    'Label Studio': [[f'{frame:05}a{clip}f-vid{clip}_{frame:04}.png' for frame in TEN] for clip in FIVE],
    'Roboflow': [[f'{word}_mp4-{frame}_jpg.rf.{copy}.jpg' for frame in TEN for copy in ('a1', 'b2')] for word in WORDS],
    'CamVid': [[f'{drive}_{frame:05}.png' for frame in TEN] for drive in ('0001TP', '0016E5', 'Seq05VD', '0006R0')],
    'Cityscapes': [[f'bonn_{drive:06}_{frame:06}_leftImg8bit.png' for frame in TEN] for drive in FIVE],
    'KITTI': [[f'2011_09_26_drive_{drive:04}_sync/image_02/data/{frame:010}.png' for frame in TEN] for drive in FIVE],
    'LGG': [[f'TCGA_CS_494{patient}_19960909_{number}.tif' for number in TEN] for patient in FIVE],
    'MOT': [[f'MOT17-0{video}-DPM/img1/{frame:06}.jpg' for frame in TEN] for video in FIVE],
    'VisDrone': [[f'{second:07}_{100 * frame:05}_d_{frame:07}.jpg' for frame in TEN] for second in FIVE],
    'DOTA': [[f'P{scene:04}__1__{x}___{y}.png' for x, y in TILES] for scene in FIVE],
    'tiles of scenes': [[f'video{scene}_{x}_{y}.png' for x, y in TILES] for scene in FIVE],
    'tiles with corners': [[f'area_2_{scene}_{x}_{y}_{x + 512}_{y + 512}.png' for x, y in TILES] for scene in FIVE],
    'mosaics': [[f'ortho_{year}_{number}_{number % 3}.png' for number in TEN] for year in range(2018, 2023)],
    'rows and columns': [[f'{word}_r{number}_c{number % 3}.png' for number in TEN] for word in WORDS],
    'named tiles': [[f'farm_{farm}_tile_{number}.png' for number in TEN] for farm in FIVE],
}
KINDS = ('cat', 'cow', 'dog', 'elk', 'hen')
BY_CHANCE = {
    'camera': [f'IMG_{number:04}.jpg' for number in range(1, 101)],
    'two cameras': [f'{camera}{number:04}.jpg' for camera in ('IMG_', 'DSC-') for number in range(1, 51)],
    'days': [f'IMG_2023050{day}_12{number * 7:04}.jpg' for day in FIVE for number in TWENTY],
    'COCO 2014': [f'COCO_train2014_{17 * number:012}.jpg' for number in range(1, 101)],
    'KITTI': [f'{number:06}_10.png' for number in range(100)],
    'Objects365': [f'objects365_v{part}_{number:08}.jpg' for part in (1, 2) for number in range(50)],
    'nothing': [f'{number}.png' for number in range(100)],
    'Label Studio': [f'{97 * number:05}abc-IMG_{number:04}.jpg' for number in range(100)],
    'kinds in folders': [f'{kind}4/{number:03}.jpg' for kind in KINDS for number in TWENTY],
    **{form: [form.format(kind, number) for kind in KINDS for number in TWENTY]
       for form in ('{}_{:03}.jpg', '{}-{:04}.jpg', '{}_crop_{}.jpg', '{} tile {}.jpg')},
    **{form: [form.format(kind, number) for kind in FIVE for number in TWENTY]
       for form in ('defect{}_{:03}.jpg', 'class{}-{:04}.jpg', 'grade{}_tile_{}.jpg', 'euro_{}_{:03}.jpg',
                    'n0{}084071_{}.jpg', '0{}_mouse_bite_{:02}.jpg', 'batch{}_{:03}.jpg', 'class{}_frame_{}.jpg')},
}  # fmt: skip


def paths(names: Sequence[str]) -> list[str]:
    return [f'/mine/images/{name}' for name in names]


@pytest.mark.parametrize('sources', OF_SOURCES.values(), ids=OF_SOURCES)
def test_pictures_of_one_source_stay_in_one_part(sources: list[list[str]]) -> None:
    train, val = draw_split(paths([name for source in sources for name in source]), Path('mine'))
    parts = [{part for name in source for part, names in enumerate((train, val)) if f'/mine/images/{name}' in names}
             for source in sources]  # fmt: skip
    assert all(len(part) == 1 for part in parts) and parts.count({1}) == 1
    (note,) = splits.source_note(train, val)
    assert note.startswith(f'names tell sources, each in one part: {len(sources) - 1} train, 1 val (')


def test_each_form_is_told_by_its_example() -> None:
    sources = find_sources(f'/mine/images/{name}.jpg' for name in FORMS)
    assert len({*sources.values()}) == len(FORMS)


@pytest.mark.parametrize('names', BY_CHANCE.values(), ids=BY_CHANCE)
def test_numbered_pictures_are_divided_one_by_one(names: list[str]) -> None:
    """By the pictures alone: the same numbers give the same parts, whatever the names say."""
    train, val = draw_split(paths(names), Path('mine'))
    plain = draw_split([f'{number:04}' for number in range(len(names))], Path('mine'))
    number_of_name = {name: f'{number:04}' for number, name in enumerate(sorted(paths(names)))}
    assert ([number_of_name[name] for name in train], [number_of_name[name] for name in val]) == plain
    assert splits.source_note(train, val) == []


@pytest.mark.parametrize('form', ['ortho_{}_{}.png', 'tile_{}_{}.png', 'farm_x{}_y{}.png'])
def test_columns_of_one_mosaic_are_one_scene(form: str) -> None:
    (note,) = splits.source_note(*draw_split(paths([form.format(x, y) for x in TEN for y in TEN]), Path('mine')))
    assert re.match('WARNING: by their names, .* some train and some validate, so the scores may be too high', note)


def test_a_grouping_leaves_no_class_out_of_training() -> None:
    """Kinds that are named as videos are, and one frame of many that alone shows a class."""
    names = paths([f'{kind}_frame_{number}.png' for kind in KINDS for number in TEN])
    train, _ = draw_split(names, Path('mine'), classes=lambda path: {Path(path).name[:3]})
    assert len({Path(path).name[:3] for path in train}) == 5
    train, val = draw_split(names, Path('mine'), classes=lambda path: {path == names[-1]})
    assert not {Path(path).name[:3] for path in train} & {Path(path).name[:3] for path in val}


def test_no_part_is_empty() -> None:
    chance = random.Random(0)
    for _ in range(200):
        form = chance.choice(('video{}_frame_{}.png', 'img{}_jpg.rf.{}.jpg', 'cat{}_{:04}.png'))
        sizes = [chance.choice((1, 2, 3, 10, 40)) for _ in range(chance.randint(2, 6))]
        names = [form.format(source, number) for source, size in enumerate(sizes) for number in range(size)]
        parts = draw_split(names, Path('mine'), chance.choice((None, 0.02, 0.1, 0.5, 0.8, 0.95)))
        assert sorted([*parts[0], *parts[1]]) == sorted(names) and all(parts)


@pytest.mark.parametrize('sources', [
    pytest.param([TEN], id='one'), pytest.param([TEN, TEN], id='two'), pytest.param([range(1), TWENTY], id='tiny'),
])  # fmt: skip
def test_too_few_sources_are_divided_with_a_warning(sources: list[range]) -> None:
    names = paths([f'video{video}_frame_{frame}.png' for video, frames in enumerate(sources) for frame in frames])
    train, val = draw_split(names, Path('mine'))
    assert len(val) == round(len(names) / 5)
    (note,) = splits.source_note(train, val)
    assert re.match('WARNING: by their names, pictures may be frames of a video or .*--split FOLDER', note)


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
    content['annotations'] = [entry for entry in content['annotations'] if entry['image_id'] not in empty]
    (root / 'labels.json').write_text(json.dumps(content))
    return find_box_data(root)


def videos_of(data: BoxData | SegData) -> dict[str, set[str]]:
    return {part: {Path(path).name.partition('_')[0] for path in picture} for part, picture in data.pictures.items()}


@pytest.mark.parametrize('task', ['seg', 'det'])
def test_new_tells_the_sources_it_divides(task: str, tmp_path: Path) -> None:
    data = video_data(tmp_path / 'four', task, 4)
    parts = videos_of(data)
    assert not parts['train'] & parts['val'] and [len(part) for part in parts.values()] == [3, 1]
    text = 'names tell sources, each in one part: 3 train, 1 val (video0, video1, video2 and 1 more)'
    assert text in data.notes
    data = video_data(tmp_path / 'one', task, 1)
    assert sum(note.startswith('WARNING: by their names, pictures may be frames') for note in data.notes) == 1


@pytest.mark.parametrize('empty', [
    pytest.param([10 * video + frame for video in range(4) for frame in (3, 4, 5, 6, 7)], id='some of each'),
    *(pytest.param(range(10 * video, 10 * video + 10), id=f'all of {video}') for video in range(4)),
])  # fmt: skip
def test_frames_without_a_box_stay_with_their_video(empty: Sequence[int], tmp_path: Path) -> None:
    data = video_data(tmp_path, 'det', 4, empty)
    parts = videos_of(data)
    assert not parts['train'] & parts['val'] and [len(picture) for picture in data.pictures.values()] == [30, 10]


def test_lists_of_the_user_are_taken_as_they_are(tmp_path: Path) -> None:
    video_data(tmp_path, 'det', 1)
    for part, frames in (('train', range(8)), ('val', (8, 9))):
        (tmp_path / f'{part}.txt').write_text(''.join(f'video0_frame_{frame:03}\n' for frame in frames))
    data = find_box_data(tmp_path, rule=SplitRule.read(str(tmp_path)))
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


def test_batches_beside_those_for_val_are_taught_on() -> None:
    """Names that tell neither frames nor tiles, or folders of parts alone, leave nothing out."""
    for form in ('/{}/batch{}_{:03}.jpg', '/{}/dog{}-{:04}.jpg', '/{}/MOT17-0{}/img1/{:06}.jpg', '/{}/val{}/{:06}.png'):
        parts = {
            'train': [form.format('mine', 1, frame) for frame in TEN],
            'val': [form.format('mine', 2, frame) for frame in TEN],
        }
        assert not siblings([form.format('more', 3, frame) for frame in TEN], parts)
    parts = {part: [f'/mine/{part}/frame_{frame:06}.png' for frame in TEN] for part in ('train', 'val')}
    assert not siblings([f'/more/val/frame_{frame:06}.png' for frame in TEN], parts)


def test_a_single_picture_for_val_tells_its_source() -> None:
    parts = {'train': [f'/mine/drive0_{frame:04}_left.png' for frame in TEN], 'val': ['/mine/drive1_0003_left.png']}
    pictures = [f'/more/drive1_{frame:04}_{side}.png' for frame in TEN for side in ('left', 'right')]
    assert siblings(pictures, parts) == {*pictures}
