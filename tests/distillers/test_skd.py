"""Pair-wise structured distillation: the shared case, its nodes, halves of a batch and the errors."""

import pytest
import torch
from torch.nn import functional as F

from mmdistill_dense.distillers import SKD
from mmdistill_dense.losses import pairwise_distance
from tests.distillers.case import DistillerCase
from tests.distillers.steps import detector_steps, trained_children, whole_and_mean_of_halves


class TestSKD(DistillerCase):
    option = dict(type='SKD')
    student = (2, 16, 8, 8)
    teacher = (2, 32, 8, 8)
    zero_on_identical = True


class TestEveryPositionOfTheLastStage(DistillerCase):
    option = dict(type='SKD', student_tap='backbone[3]', patch_size=1)
    student = (2, 4, 4, 8)
    teacher = (2, 5, 8, 16)


class TestReleasedNodes(DistillerCase):
    option = dict(type='SKD', pool_scale=0.5)
    student = (2, 16, 8, 8)
    teacher = (2, 32, 8, 8)
    zero_on_identical = True


@pytest.mark.parametrize(
    ('options', 'size', 'nodes'),
    [
        ({}, (8, 12), (4, 6)),
        (dict(patch_size=2), (5, 6), (3, 3)),  # a last incomplete patch is a node
        (dict(patch_size=3), (2, 9), (1, 3)),  # a patch no larger than the map
        (dict(patch_size=1), (5, 6), (5, 6)),
        (dict(pool_scale=0.5), (8, 12), (2, 2)),
        (dict(pool_scale=0.5), (5, 12), (3, 2)),
        (dict(pool_scale=1.0), (8, 12), (1, 1)),
        (dict(pool_scale=0.1), (5, 20), (5, 10)),  # never less than a position
    ],
)
def test_nodes_are_the_largest_values_of_patches(options, size, nodes):
    distiller = SKD(**options)
    x = torch.randn(2, 3, *size)
    pooled = distiller.nodes(x)
    assert pooled.shape == (2, 3, *nodes)
    height, width = distiller.nodes(torch.ones(1, 1, *size)).shape[2:]
    assert (height, width) == nodes and pooled.amax() == x.amax()


def test_the_loss_compares_the_nodes():
    student, teacher = torch.randn(2, 3, 8, 8), torch.randn(2, 7, 8, 8)
    (loss,) = SKD(patch_size=4).loss(student, teacher, 0).values()
    torch.testing.assert_close(loss, pairwise_distance(F.max_pool2d(student, 4), F.max_pool2d(teacher, 4)))


def test_a_batch_is_the_mean_of_its_images():
    shapes = [(1, 5, 4, 4), (1, 8, 8, 8)]
    distiller = SKD('a')
    distiller.setup(*({'a': [torch.Size(shape)]} for shape in shapes))
    assert not list(distiller.parameters())
    torch.testing.assert_close(*whole_and_mean_of_halves(distiller, shapes))


def test_it_runs_on_the_levels_of_a_real_detector():
    model, values = detector_steps(dict(type='SKD', student_tap='neck'))
    assert values[-1] < values[0]
    assert trained_children(model) == {'backbone', 'neck'}


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(patch_size=0), 'patch_size must be a whole number >= 1, got 0'),
        (dict(patch_size=2.5), 'patch_size must be a whole number or None, got 2.5'),
        (dict(pool_scale=0), 'pool_scale must be above 0 and at most 1, got 0'),
        (dict(pool_scale=2), 'pool_scale must be above 0 and at most 1, got 2'),
        (dict(patch_size=2, pool_scale=0.5), 'both set the patch: give only one'),
    ],
)
def test_errors(options, words):
    with pytest.raises(ValueError, match=words):
        SKD(**options)
