"""What is drawn on the page: labels and objects in the picture's place, and what a caption says of them."""

import base64
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer

from mmdistill_dense.apps.inspect.drawing import draw
from mmdistill_dense.apps.report import predictions
from mmdistill_dense.apps.report.predictions import Scene, prediction_panel, share_right, truth_panel
from mmdistill_dense.apps.report.section import Panel

META = {'classes': ('cat', 'dog'), 'palette': [(250, 0, 0), (0, 250, 0)]}
BOX = torch.tensor([[200.0, 200.0, 600.0, 400.0]])


def pixels(source: str) -> np.ndarray:
    data = np.frombuffer(base64.b64decode(source.split(',')[1]), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(int)


def segmented(predicted: list[int], truth: list[int] | None) -> SegDataSample:
    """Rows of 32 pixels of one class each."""
    rows = (torch.tensor(one)[None, :, None] for one in (predicted, truth or []))
    maps = [one.expand(-1, -1, 96).repeat_interleave(32, 1) for one in rows]
    sample = SegDataSample(pred_sem_seg=PixelData(data=maps[0]))
    if truth is not None:
        sample.gt_sem_seg = PixelData(data=maps[1])
    return sample


def test_classes_have_their_colours_and_pixels_without_a_label_do_not_count() -> None:
    sample = segmented([0, 1, 1], [0, 0, 255])
    found = prediction_panel(Scene('x', np.full((96, 96, 3), 100, np.uint8), {}), sample, 'kd', META)
    assert found.caption == 'kd: 50.0% of the labelled pixels right'
    seen = pixels(found.source)
    for rows, colour in ((slice(8, 24), (175, 50, 50)), (slice(40, 88), (50, 175, 50))):
        assert np.abs(seen[rows, 8:88].reshape(-1, 3).mean(0) - colour).max() < 12
    assert share_right(segmented([0, 1], [255, 255])) is None
    assert share_right(segmented([0, 1], None)) is None


@pytest.mark.parametrize('which', ['gt', 'pred'])
def test_labels_are_drawn_as_mmseg_draws_them(which: str) -> None:
    rng = np.random.default_rng(0)
    image, labels = rng.integers(0, 256, (40, 50, 3), np.uint8), torch.from_numpy(rng.integers(0, 5, (1, 40, 50)))
    labels[labels == 4] = 255
    meta = {'classes': 'abcd', 'palette': [tuple(map(int, one)) for one in rng.integers(0, 256, (4, 3))]}
    sample = SegDataSample(**{f'{which}_sem_seg': PixelData(data=labels)})
    options = {f'draw_{other}': other == which for other in ('gt', 'pred')}
    theirs = SegLocalVisualizer(alpha=0.5)
    theirs.dataset_meta = meta
    theirs.add_datasample('', image, sample, with_labels=False, **options)
    assert np.array_equal(draw(image, sample, meta, which), theirs.get_image())
    sample = SegDataSample(**{f'{which}_sem_seg': PixelData(data=labels.float())})  # as of one channel
    assert np.array_equal(draw(image, sample, meta, which), theirs.get_image())


def test_a_padded_picture_is_shown_without_its_border(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = torch.zeros(3, 640, 640, dtype=torch.uint8)
    inputs[:, :480] = 200
    about = {'ori_shape': (240, 320), 'img_shape': (640, 640), 'scale_factor': (2.0, 2.0)}
    item = {'inputs': inputs, 'data_samples': DetDataSample(metainfo=about)}

    class Data(list):
        metainfo: dict[str, Any] = {}

    monkeypatch.setattr(predictions.DATASETS, 'build', lambda option: Data([item]))
    loader = SimpleNamespace(dataset={'pipeline': [{'type': 'Pad'}]})
    (scene,), _ = predictions.scenes_of(SimpleNamespace(config={'val_dataloader': loader}), 1)
    assert scene.image.shape == (240, 320, 3) and (scene.image == 200).all()


def shown(truth: InstanceData, meta: dict[str, Any] = META) -> Panel:
    """A black picture of 1280 x 960 with its true objects, which is shown at half its size."""
    sample = DetDataSample(gt_instances=truth)
    found = truth_panel(Scene('x', np.zeros((960, 1280, 3), np.uint8), {'data_samples': sample}), meta)
    assert found is not None and isinstance(sample.gt_instances.bboxes, type(truth.bboxes)), 'the item stays as it is'
    return found


@pytest.mark.parametrize('kind', [lambda boxes: boxes, HorizontalBoxes])
def test_boxes_stand_where_they_were_in_a_large_picture(kind: Callable[[torch.Tensor], Any]) -> None:
    found = shown(InstanceData(bboxes=kind(BOX.clone()), labels=torch.tensor([0])))
    rows, columns = np.nonzero(pixels(found.source)[..., 0] > 100)
    assert np.abs(np.array([columns.min(), rows.min(), columns.max(), rows.max()]) - (100, 100, 300, 200)).max() <= 3
    assert found.caption == 'truth: 1 boxes'
    assert shown(InstanceData(bboxes=BOX, labels=torch.tensor([7])), {'classes': None, 'palette': None}).source


def test_a_mask_without_a_box_is_framed_and_named() -> None:
    """As SOLO finds them, and labels of masks alone."""
    masks = torch.zeros(1, 60, 80, dtype=torch.bool)
    masks[0, 20:40, 30:70] = True
    picture, found = np.zeros((60, 80, 3), np.uint8), InstanceData(labels=torch.tensor([0]), masks=masks)
    bare = draw(picture, DetDataSample(pred_instances=found), META, 'pred')
    found.bboxes = torch.zeros(1, 4)
    assert np.array_equal(draw(picture, DetDataSample(pred_instances=found), META, 'pred'), bare)
    assert (bare[20, 30:70] == (250, 0, 0)).all() and not bare[:18].any() and not bare[:, :28].any()


OUTLINE = np.array([200.0, 200, 400, 200, 400, 400, 200, 400])


@pytest.mark.parametrize('kind', [
    torch.from_numpy,
    lambda masks: BitmapMasks(masks, 960, 1280),
    lambda _: PolygonMasks([[OUTLINE]], 960, 1280),
])  # fmt: skip
def test_masks_are_filled_at_the_size_that_is_shown(kind: Callable[[np.ndarray], Any]) -> None:
    """Masks of predictions are tensors; those of the labels are mmdet's own."""
    masks = np.zeros((1, 960, 1280), bool)
    masks[0, 200:400, 200:400] = True
    found = shown(InstanceData(bboxes=BOX, labels=torch.tensor([0]), masks=kind(masks)))
    red = pixels(found.source)[..., 0]
    assert red[130:190, 130:190].mean() > 80, 'red in the mask'
    assert red[130:190, 230:290].mean() < 20, 'black in the box beside the mask'
    assert found.caption == 'truth: 1 masks'


def test_boxes_beyond_the_picture_and_names_of_any_script_are_drawn() -> None:
    odd = torch.tensor([[-50.0, 10, 5000, 30], [float('nan')] * 4, [40, 50, 40, 50]])
    found = InstanceData(bboxes=odd, labels=torch.tensor([0, 1, 1]), scores=torch.tensor([0.9, 0.8, 0.7]))
    sample = DetDataSample(pred_instances=found)
    picture = np.zeros((60, 80, 3), np.uint8)
    for names in (('Straße', 'кошка'), ('Strae', 'x')):
        found = draw(picture, sample, {**META, 'classes': names}, 'pred', 0.85)
        assert (found[10, 60:] == (250, 0, 0)).all() and (found[30, 1:] == (250, 0, 0)).all() and not found[33:].any()
    drawn = [draw(picture, sample, {**META, 'classes': (name, 'x')}, 'pred') for name in ('Straße', 'Stra?e')]
    assert not np.array_equal(*drawn) and not picture.any()
    drawn = [draw(picture, sample, {**META, 'classes': (name, 'x')}, 'pred') for name in ('猫', 'class 0')]
    assert np.array_equal(*drawn), 'a number where the font has no such letters'


def test_objects_below_the_score_are_not_counted() -> None:
    found = InstanceData(bboxes=BOX.repeat(2, 1), labels=torch.tensor([0, 1]), scores=torch.tensor([0.9, 0.2]))
    scene = Scene('x', np.zeros((960, 1280, 3), np.uint8), {})
    assert prediction_panel(scene, DetDataSample(pred_instances=found), 'kd', META).caption == 'kd: 1 boxes'
