"""Colours of classes that can be told apart, in every picture."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from mmseg.datasets import BaseSegDataset

from mmdistill_dense.apps.project.box_labels import find_box_data
from mmdistill_dense.apps.project.config_files import box_file, seg_file
from mmdistill_dense.apps.project.label_images import find_seg_data
from mmdistill_dense.utils.colours import distinct_colours, palette_of
from tests.project.folders_of_data import box_folder, seg_folder
from tests.utils.test_literals import LOADING, back


def nearest(colours: np.ndarray) -> float:
    """The smallest difference of two colours in CIE Lab, in which 2 can just be seen."""
    lab = cv2.cvtColor((colours / 255).astype(np.float32)[None], cv2.COLOR_RGB2LAB)[0]
    apart = np.linalg.norm(lab[:, None] - lab, axis=-1)
    return float(apart[~np.eye(len(lab), dtype=bool)].min())


@pytest.mark.parametrize(('classes', 'least'), [(2, 60), (11, 30), (30, 20), (150, 8)])
def test_classes_without_colours_get_distinct_ones(classes: int, least: float) -> None:
    names = [f'class {number}' for number in range(classes)]
    drawn = BaseSegDataset(metainfo={'classes': names}, lazy_init=True, test_mode=True, data_root='.').metainfo
    assert nearest(np.asarray(drawn['palette'])) < least, 'those that mmseg draws'
    for given in (None, [], drawn['palette'], [[0, 0, 0]]):
        found = palette_of(given, classes)
        assert nearest(found) > least and (found == distinct_colours(classes)).all()
    own = np.random.default_rng(0).integers(0, 255, (classes, 3)).tolist()
    assert palette_of(own, classes).tolist() == own
    assert len(palette_of(None, 0)) == 1 and len(distinct_colours(600)) == 600


def test_new_writes_the_colours(tmp_path: Path) -> None:
    found = back(seg_file(find_seg_data(seg_folder(tmp_path, (0, 1))), LOADING))['train_dataloader']['dataset']
    assert found['metainfo']['palette'] == distinct_colours(2).tolist()


def test_no_class_of_objects_is_nearly_black(tmp_path: Path) -> None:
    found = back(box_file(find_box_data(box_folder(tmp_path)), LOADING, False, False))['train_dataloader']['dataset']
    assert np.max(found['metainfo']['palette'], axis=1).min() > 200
