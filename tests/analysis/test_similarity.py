"""Similarity pictures: the cosines, where the pixel lies, and the command on pre-training and plug-in configs."""

import copy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.check.tap_list import networks_of
from mmdistill_dense.apps.inspect.drawing import FRAME, HEAD, heated
from mmdistill_dense.apps.inspect.similarity import (
    cosine_map,
    draw_similarity,
    grid_points,
    pictures_of,
    read_pictures,
    ready_pair,
    similarity_rows,
)
from mmdistill_dense.apps.inspect.step_cost import prepare_steps
from tests import toys
from tests.pretrain import runs

PCD = dict(type='PCD', queue_size=4)
SEG_IMAGE = np.random.default_rng(0).integers(0, 256, (toys.SIDE, toys.SIDE, 3), dtype=np.uint8)


def seg_options() -> dict[str, Any]:
    return dict(teacher=toys.seg_teacher(), distillers=dict(kd=dict(type='LogitKD'), pcd=PCD))


def det_options() -> dict[str, Any]:
    options = dict(student=toys.det_net(), teacher=toys.det_teacher())
    return dict(options, distillers=dict(pcd=dict(PCD, student_tap='neck')))


def of_kind(kind: str) -> tuple[Any, Any]:
    scope, options = ('mmseg', seg_options()) if kind == 'seg' else ('mmdet', det_options())
    model = toys.distilled(scope=scope, **options)
    return model.eval(), model.distillers['pcd']


def drawn(folder: Path, *arguments: str) -> list[Path]:
    assert main(['visualize', 'similarity', *arguments, '--out', str(folder / 'pictures')]) == 0
    return sorted((folder / 'pictures').iterdir())


def same_picture(*files: Path) -> bool:
    first, second = (cv2.imread(str(file)) for file in files)
    return np.array_equal(first, second)


# Cosines


def test_cosine_map_is_the_cosine_with_the_cell_under_the_pixel() -> None:
    x = torch.randn(1, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    found = cosine_map(x, point=(5, 2), padded=(4, 6), image=(4, 6))
    expected = F.cosine_similarity(x[0], x[0, :, 2, 5, None, None], dim=0)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found[2, 5] == pytest.approx(1, abs=1e-6)


def test_pixels_of_a_cell_are_looked_up_in_the_padded_batch() -> None:
    x = torch.eye(6)[:, :, None].view(1, 6, 2, 3)  # six cells at right angles, of 8x8 pixels
    for point, cell in (((0, 0), (0, 0)), ((7, 7), (0, 0)), ((8, 7), (0, 1)), ((19, 9), (1, 2))):
        found = cosine_map(x, point, padded=(16, 24), image=(10, 20))
        assert found.shape == (10, 20)
        assert tuple(place // 8 for place in np.unravel_index(found.argmax(), found.shape)) == cell


def test_grid_points_are_spread_evenly() -> None:
    assert grid_points(np.zeros((30, 60, 3)), 1) == [(30, 15)]
    assert grid_points(np.zeros((40, 80, 3)), 2) == [(20, 10), (60, 10), (20, 30), (60, 30)]


def test_rows_are_the_taps_of_both_networks() -> None:
    model, distiller = of_kind('seg')
    (row,) = similarity_rows(model, distiller, SEG_IMAGE, [(20, 40)])
    batch = dict(inputs=[torch.from_numpy(SEG_IMAGE.transpose(2, 0, 1).copy())], data_samples=None)
    inputs = model.data_preprocessor(batch, False)['inputs']
    with torch.no_grad():
        student, (teacher,) = model.backbone(inputs)[3], distiller.teacher(inputs)['backbone[-1]']
    for found, x in ((row.student, student), (row.teacher, teacher)):
        np.testing.assert_array_equal(found, cosine_map(x, (20, 40), inputs.shape[2:], SEG_IMAGE.shape[:2]))
    assert not np.allclose(row.student, row.teacher, atol=0.01)
    assert toys.hooks_left(model) == 0


def test_a_row_for_each_level_of_a_detector_on_an_image_that_is_padded() -> None:
    model, distiller = of_kind('det')
    image = SEG_IMAGE[:50, :40]
    rows = similarity_rows(model, distiller, image, [(10, 20), (30, 5)])
    levels = len(distiller.weights)
    assert levels > 1 and len(rows) == 2 * levels
    assert [row.level for row in rows[:2]] == [', level 0', ', level 1']
    assert {row.teacher.shape for row in rows} == {(50, 40)}


def test_a_tap_of_vectors_is_refused() -> None:
    model, distiller = of_kind('seg')
    model.backbone.register_forward_hook(lambda _, args, output: tuple(x.mean((2, 3)) for x in output))
    model.decode_head = torch.nn.Identity()
    with pytest.raises(ValueError, match=r'which is not a \(B, C, H, W\) map'):
        similarity_rows(model, distiller, SEG_IMAGE, [(0, 0)])


# Pictures


def test_panel_is_blue_at_its_smallest_cosine_and_red_at_one() -> None:
    panel = heated(np.full((1, 2, 3), 128, np.uint8), np.array([[0.7, 1.0]])).astype(int)
    (red0, _, blue0), (red1, _, blue1) = panel[0]
    assert blue0 > red0 and red1 > blue1


def test_a_picture_has_a_row_for_each_pixel_and_three_panels(tmp_path: Path) -> None:
    model, distiller = of_kind('seg')
    image = cv2.resize(SEG_IMAGE, (250, 120))
    one, other = (
        draw_similarity(model, distiller, {name: image}, tmp_path / name, points)[0]
        for name, points in (('one', [(40, 30)]), ('other', [(40, 30), (200, 100)]))
    )
    assert one.name == 'one.png'
    for file, rows in ((one, 1), (other, 2)):
        assert cv2.imread(str(file)).shape == (rows * (120 + HEAD + FRAME), 3 * (250 + 2 * FRAME), 3)
    assert len(np.unique(cv2.imread(str(one)).reshape(-1, 3), axis=0)) > 1000


@pytest.mark.parametrize(
    ('points', 'message'),
    [([(64, 0)], r"x=64, y=0 is not in 'a', which is 64 wide and 64 high"), ([], 'no pixel to show'), (0, 'no pixel')],
)
def test_pixels_must_lie_in_the_image(points: Any, message: str, tmp_path: Path) -> None:
    model, distiller = of_kind('seg')
    with pytest.raises(ValueError, match=message):
        draw_similarity(model, distiller, {'a': SEG_IMAGE}, tmp_path, points)


# The command


@pytest.mark.soak
def test_command_shows_a_pretraining_run_before_and_after(tmp_path: Path) -> None:
    config = runs.config(tmp_path / 'run', epochs=1)
    toys.train(None, config)
    with toys.unformatted():
        config.dump(tmp_path / 'config.py')
    arguments = [str(tmp_path / 'config.py'), '--images', '2', '--grid', '2']
    checkpoint = ['--checkpoint', str(tmp_path / 'run/epoch_1.pth')]
    files = drawn(tmp_path, *arguments, *checkpoint)
    assert [file.name for file in files] == ['similarity_000.png', 'similarity_001.png']
    assert cv2.imread(str(files[0])).shape[0] > 4 * 72
    model, distiller = ready_pair(config, checkpoint[1])
    trained = torch.load(checkpoint[1], weights_only=False)['state_dict']
    assert not toys.differing(model.state_dict(), trained)
    assert not model.training and distiller.teacher.network is not None
    untrained, _ = ready_pair(config)
    assert toys.differing(untrained.state_dict(), trained)


@pytest.mark.soak
def test_command_shows_files_with_the_distiller_that_is_named(tmp_path: Path, capsys: Any) -> None:
    with toys.unformatted():
        toys.run_config(tmp_path / 'run', toys.model_config(**seg_options())).dump(tmp_path / 'config.py')
    cv2.imwrite(str(tmp_path / 'mine.png'), SEG_IMAGE)
    arguments = [str(tmp_path / 'config.py'), '--files', str(tmp_path / 'mine.png'), '--points', '3,5', '60,60']
    (file,) = drawn(tmp_path / 'first', *arguments)
    same, other = (drawn(tmp_path / name, *arguments, '--distiller', name)[0] for name in ('kd', 'pcd'))
    assert file.name == 'mine.png'
    assert same_picture(file, same), 'the first by default'
    assert not same_picture(file, other)
    assert main(['visualize', 'similarity', *arguments, '--distiller', 'maskd']) == 2
    assert 'holds no maskd; it has: kd, pcd' in capsys.readouterr().err


def test_files_of_one_name_are_all_shown_and_others_than_pictures_refused(tmp_path: Path) -> None:
    files = [tmp_path / folder / 'a.png' for folder in ('one', 'two', 'three')]
    for grey, file in enumerate(files):
        file.parent.mkdir()
        cv2.imwrite(str(file), np.full((4, 4, 3), grey, np.uint8))
    found = read_pictures(files)
    assert {name: image.max() for name, image in found.items()} == {'a': 0, 'a_2': 1, 'a_3': 2}
    files[0].write_bytes(b'no picture')
    with pytest.raises(ValueError, match="--files: '.*one/a.png' cannot be read as a picture"):
        read_pictures(files)


def test_images_are_the_test_sets_where_there_is_one() -> None:
    shapes = dict(
        type='mmdistill_dense.ShapesSegDataset', num_images=3, pipeline=[dict(type='mmdistill_dense.LoadShapes')]
    )
    config = Config(dict(train_dataloader=dict(dataset=dict(shapes, seed=1))))
    (first, *_) = pictures_of(config, 1).values()
    config.test_dataloader = dict(dataset=dict(shapes, seed=2))
    found = pictures_of(config, 9)
    assert list(found) == ['similarity_000', 'similarity_001', 'similarity_002']
    assert not np.array_equal(first, found['similarity_000'])
    with pytest.raises(ValueError, match='images must be at least 1, got 0'):
        pictures_of(config, 0)
    config.test_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=dict(shapes, seed=1))
    with pytest.raises(ValueError, match='RepeatDataset has no pipeline of its own'):
        pictures_of(config, 1)


def test_a_config_without_distillers_and_a_malformed_pixel_are_refused(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(KeyError, match='holds no distiller; it has: none'):
        ready_pair(Config(dict(default_scope='mmseg', model=toys.model_config(distillers={}))))
    with pytest.raises(SystemExit):
        drawn(tmp_path, 'config.py', '--points', '3;5')
    assert "'3;5' is not a pixel: write X,Y" in capsys.readouterr().err


def test_a_preprocessor_beside_the_model_counts_as_in_training(tmp_path: Path) -> None:
    """The runner gives it to a model that has none of its own."""
    config = toys.run_config(tmp_path, toys.model_config(distillers=dict(kd=dict(type='LogitKD'))))
    config.data_preprocessor = dict(size=(32, 32))
    trained = toys.make_runner(tmp_path, copy.deepcopy(config)).model
    assert trained.data_preprocessor.size == (32, 32) != toys.build(config.model).data_preprocessor.size
    assert ready_pair(config)[0].data_preprocessor.size == (32, 32)
    assert prepare_steps(config).size == (32, 32)
    assert next(networks_of(config))[1].model.data_preprocessor.size == (32, 32)
