"""The painter: the same pictures everywhere, labels and instances that agree."""

import numpy as np
import pytest

from mmdistill_dense.datasets.shapes import CLASSES, SHAPES, TEXTURES, TINTS, Picture, paint


@pytest.fixture(scope='module')
def pictures() -> list[Picture]:
    return [paint(3, index) for index in range(60)]


def test_shape_and_type(pictures: list[Picture]) -> None:
    for picture in pictures:
        assert picture.image.shape == (96, 128, 3)
        assert picture.image.dtype == np.uint8
        assert picture.labels.shape == (96, 128)
        assert picture.labels.dtype == np.uint8


def test_a_picture_depends_on_seed_and_index_alone() -> None:
    np.random.seed(0)
    first = paint(0, 5)
    np.random.seed(1)
    paint(0, 4)
    again = paint(0, 5)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.labels, again.labels)
    assert not np.array_equal(first.image, paint(0, 6).image)
    assert not np.array_equal(first.image, paint(1, 5).image)


def test_every_class_occurs_and_objects_hide_each_other(pictures: list[Picture]) -> None:
    assert set(np.unique([picture.labels for picture in pictures])) == set(range(len(CLASSES)))
    assert len(CLASSES) == 1 + len(SHAPES) * len(TEXTURES)
    boxes = [(instance, instance.box) for picture in pictures for instance in picture.instances]
    filled = [i.mask.sum() / ((x2 - x1) * (y2 - y1)) for i, (x1, y1, x2, y2) in boxes]
    assert min(filled) < 0.3  # much of the box is hidden, or outside a triangle


def test_instances_cover_the_label_map_without_overlap(pictures: list[Picture]) -> None:
    for picture in pictures:
        covered = np.zeros(picture.labels.shape, int)
        for instance in picture.instances:
            covered += instance.mask
            assert (picture.labels[instance.mask] == instance.label).all()
            rows, columns = np.nonzero(instance.mask)
            assert instance.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert np.array_equal(covered, picture.labels > 0)


def test_options() -> None:
    picture = paint(0, 0, size=(40, 72), objects=(2, 2), radius=(5.0, 6.0), noise=0.0)
    assert picture.image.shape == (40, 72, 3)
    assert len(picture.instances) <= 2
    assert all(instance.mask.sum() <= 12 * 12 * 1.1 for instance in picture.instances)
    assert not paint(0, 0, objects=(0, 0)).instances


def test_contrast_is_the_difference_of_a_textures_two_colours() -> None:
    for index in range(5):
        picture = paint(0, index, objects=(1, 1), noise=0.0, contrast=40.0)
        (instance,) = picture.instances
        assert abs(int(np.ptp(picture.image[instance.mask], axis=0).max()) - 40) <= 1


def test_period_makes_textures_coarser_and_changes_nothing_else() -> None:
    def changes(period: tuple[float, float]) -> int:
        pictures = [paint(0, index, objects=(1, 1), noise=0.0, period=period) for index in range(10)]
        inside = [(p.image.astype(int), p.labels > 0) for p in pictures]
        return sum(int((np.abs(np.diff(i, axis=1)).sum(2) > 20)[m[:, 1:] & m[:, :-1]].sum()) for i, m in inside)

    assert changes((14.0, 16.0)) < 0.7 * changes((7.0, 8.0))
    assert np.array_equal(paint(0, 0, period=(20.0, 20.0)).labels, paint(0, 0).labels)


def test_tint_brings_the_colours_of_a_shape_together_and_moves_nothing() -> None:
    def colour(index: int, tint: float) -> tuple[int, np.ndarray]:
        picture = paint(0, index, objects=(1, 1), noise=0.0, contrast=0.0, tint=tint)
        (instance,) = picture.instances
        assert np.array_equal(picture.labels, paint(0, index, objects=(1, 1)).labels)
        return (instance.label - 1) // len(TEXTURES), picture.image[instance.mask].mean(0)

    assert [colour(index, 1.0)[1].tolist() for index in range(9)] == [
        list(TINTS[colour(index, 1.0)[0]]) for index in range(9)
    ]
    for index in range(9):
        shape, plain = colour(index, 0.0)
        assert np.abs(colour(index, 0.5)[1] - (plain + TINTS[shape]) / 2).max() <= 1
