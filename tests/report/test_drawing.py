"""What is drawn into pictures: boxes, labels, and where a student and its teacher differ."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import BaseDataElement, InstanceData

from mmdistill_dense.apps.inspect.drawing import TEACHER_RIGHT, TEACHER_WRONG, painted
from mmdistill_dense.apps.report.predictions import (
    Scene,
    Scenes,
    disagreement_panel,
    share_right,
    truth_panel,
)
from mmdistill_dense.apps.report.section import Panel


def pixels(source: str) -> np.ndarray:
    import base64

    import cv2

    data = np.frombuffer(base64.b64decode(source.split(',')[1]), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(int)


def test_the_map_paints_what_differs_by_who_is_right():
    image = np.full((96, 96, 3), 128, np.uint8)
    teacher = np.zeros((96, 96), int)
    own, truth = teacher.copy(), teacher.copy()
    own[:32] = 1  # the teacher is right
    own[32:64] = truth[32:64] = 1  # the student is
    found = disagreement_panel(Scene('x', image, {}), own, teacher, truth, 'kd')
    assert found.caption == 'kd: 66.7% differ'
    seen = pixels(found.source)
    for rows, colour in ((slice(8, 24), TEACHER_RIGHT), (slice(40, 56), TEACHER_WRONG), (slice(72, 88), (128,) * 3)):
        assert np.abs(seen[rows, 8:88].reshape(-1, 3).mean(0) - colour).max() < 12


def shown(truth: InstanceData, classes: tuple[str, ...] = ('cat',)) -> Panel:
    """A black picture of 1280 x 960 with its true objects, which is shown at half its size."""
    scene = Scene('x', np.zeros((960, 1280, 3), np.uint8), {'data_samples': BaseDataElement(gt_instances=truth)})
    found = truth_panel(Scenes((scene,), classes, np.array([[255, 0, 0]])), scene)
    assert found is not None
    return found


BOX = torch.tensor([[200.0, 200.0, 600.0, 400.0]])


def test_boxes_stand_where_they_were_in_a_large_picture():
    found = shown(InstanceData(bboxes=BOX, labels=torch.tensor([0])))
    rows, columns = np.nonzero(pixels(found.source)[..., 0] > 100)
    assert np.abs(np.array([columns.min(), rows.min(), columns.max(), rows.max()]) - (100, 100, 300, 200)).max() <= 2
    assert found.alt == 'True boxes in x: 1 cat'
    assert shown(InstanceData(bboxes=BOX, labels=torch.tensor([7])), ()).alt == 'True boxes in x: 1 class 7'


@pytest.mark.parametrize('kind', [torch.from_numpy, lambda masks: BitmapMasks(masks, 960, 1280)])
def test_masks_are_filled_at_the_size_that_is_shown(kind: Callable[[np.ndarray], Any]) -> None:
    """Masks of predictions are tensors; those of the labels are mmdet's own."""
    masks = np.zeros((1, 960, 1280), np.uint8)
    masks[0, 200:400, 200:400] = 1
    found = shown(InstanceData(bboxes=BOX, labels=torch.tensor([0]), masks=kind(masks)))
    red = pixels(found.source)[..., 0]
    assert (np.abs(red[110:190, 110:190] - 127) < 12).all(), 'half red in the mask'
    assert (red[110:190, 210:290] < 12).all(), 'black in the box beside the mask'


def test_classes_have_their_colours_and_those_without_are_black():
    image, classes = np.full((1, 3, 3), 100, np.uint8), np.array([[0, 1, 255]])
    found = painted(image, classes, np.array([[250, 0, 0], [0, 250, 0]], np.uint8))
    assert found.tolist() == [[[190, 40, 40], [40, 190, 40], [40, 40, 40]]]


def test_unlabelled_pixels_do_not_count():
    truth = np.array([[0, 1], [255, 255]])
    assert share_right(np.array([[0, 0], [1, 1]]), truth) == 0.5
    assert share_right(truth, np.full((2, 2), 255)) is None
