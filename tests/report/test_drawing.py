"""What is drawn into pictures: boxes, labels, and where a student and its teacher differ."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import BaseDataElement, InstanceData

from mmdistill_dense.apps.inspect.drawing import TEACHER_RIGHT, TEACHER_WRONG
from mmdistill_dense.apps.report.predictions import (
    Scene,
    Scenes,
    disagreement_panel,
    share_right,
    truth_panel,
)


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


def test_boxes_stand_where_they_were_in_a_large_picture():
    """A picture of 1280 x 960 is shown at half its size, and the box with it."""
    truth = InstanceData(bboxes=torch.tensor([[200.0, 200.0, 600.0, 400.0]]), labels=torch.tensor([0]))
    scene = Scene('x', np.zeros((960, 1280, 3), np.uint8), {'data_samples': BaseDataElement(gt_instances=truth)})
    found = truth_panel(Scenes((scene,), ('cat',), np.array([[255, 0, 0]])), scene)
    rows, columns = np.nonzero(pixels(found.source)[..., 0] > 100)
    assert np.abs(np.array([columns.min(), rows.min(), columns.max(), rows.max()]) - (100, 100, 300, 200)).max() <= 2
    assert found.alt == 'True boxes in x: 1 cat'


@pytest.mark.parametrize('kind', [torch.from_numpy, lambda masks: BitmapMasks(masks, 960, 1280)])
def test_masks_are_filled_at_the_size_that_is_shown(kind: Callable[[np.ndarray], Any]) -> None:
    """Masks of predictions are tensors; those of the labels are mmdet's own."""
    masks = np.zeros((1, 960, 1280), np.uint8)
    masks[0, 200:400, 200:400] = 1
    truth = InstanceData(
        bboxes=torch.tensor([[200.0, 200.0, 600.0, 400.0]]), labels=torch.tensor([0]), masks=kind(masks)
    )
    scene = Scene('x', np.zeros((960, 1280, 3), np.uint8), {'data_samples': BaseDataElement(gt_instances=truth)})
    found = truth_panel(Scenes((scene,), ('cat',), np.array([[255, 0, 0]])), scene)
    red = pixels(found.source)[..., 0]
    assert (np.abs(red[110:190, 110:190] - 127) < 12).all(), 'half red in the mask'
    assert (red[110:190, 210:290] < 12).all(), 'black in the box beside the mask'


def test_boxes_of_a_class_without_a_name_are_drawn():
    truth = InstanceData(bboxes=torch.tensor([[8.0, 8.0, 40.0, 40.0]]), labels=torch.tensor([7]))
    scene = Scene('x', np.zeros((64, 64, 3), np.uint8), {'data_samples': BaseDataElement(gt_instances=truth)})
    found = truth_panel(Scenes((scene,), (), np.array([[255, 0, 0]])), scene)
    assert found.alt == 'True boxes in x: 1 class 7'


def test_unlabelled_pixels_do_not_count():
    truth = np.array([[0, 1], [255, 255]])
    assert share_right(np.array([[0, 0], [1, 1]]), truth) == 0.5
    assert share_right(truth, np.full((2, 2), 255)) is None
