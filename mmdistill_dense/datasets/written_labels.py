"""How the label images of a data set are named, and which values they hold, for writing more of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmdistill_dense.utils.messages import some

IGNORED = 255  # mmseg's label of a pixel without a class
_PNG = '.png'


@dataclass(frozen=True)
class LabelImages:
    """The names and values of label images that a data set of mmseg reads.

    Attributes:
        values: (256,), uint8: the value in the file for each class, and at 255 for a pixel without a class.
        img_suffix: Ending of the pictures.
        seg_map_suffix: Ending of the label images, a PNG.
        to_set: What a data set must set to read these files; empty for one with the options of the labelled set.
    """

    values: np.ndarray
    img_suffix: str
    seg_map_suffix: str
    to_set: Mapping[str, str]

    @classmethod
    def of(cls, labelled: Any, names: Sequence[str]) -> LabelImages:
        """Return them for pictures.

        Args:
            labelled: The data set, or a wrapper of it.
            names: Of the pictures, which must have one ending.

        Raises:
            ValueError: For pictures of several endings, or classes that leave no value for pixels without one.
        """
        inner = labelled
        while not hasattr(inner, 'img_suffix') and (hasattr(inner, 'dataset') or getattr(inner, 'datasets', None)):
            inner = inner.dataset if hasattr(inner, 'dataset') else inner.datasets[0]
        own, own_labels = getattr(inner, 'img_suffix', ''), getattr(inner, 'seg_map_suffix', _PNG)
        ending = own if own and all(name.endswith(own) for name in names) else _one_ending(names)
        labels = own_labels if own_labels.endswith(_PNG) else _PNG
        to_set = {'img_suffix': ending} if ending != own else {}
        if labels != own_labels:
            to_set['seg_map_suffix'] = labels
        return cls(file_values(labelled.metainfo), ending, labels, to_set)

    def stem(self, name: str) -> str:
        """Return the line of a picture in a list of mmseg."""
        return name.removesuffix(self.img_suffix)


def file_values(metainfo: Mapping[str, Any]) -> np.ndarray:
    """Return the value in the label files of a data set for each class; at 255 the one for pixels without a class.

    Args:
        metainfo: Of mmseg's data set or of a wrapper: ``classes``, ``label_map``, ``reduce_zero_label``.

    Returns:
        (256,), uint8.

    Raises:
        ValueError: If 255 is the value of a class, and no value is free for pixels without one.
    """
    values, label_map = np.arange(256), metainfo.get('label_map') or {}
    for value, number in label_map.items():
        if number != IGNORED:
            values[number] = value
    if metainfo.get('reduce_zero_label'):
        values[:IGNORED] += 1
    classes = values[: len(metainfo.get('classes') or ())].tolist()
    if IGNORED in classes:
        ignored = [value for value, number in label_map.items() if number == IGNORED and value not in classes]
        if not ignored or metainfo.get('reduce_zero_label'):
            raise ValueError(
                f'255 is the value of class {metainfo["classes"][classes.index(IGNORED)]!r} in the label files, and no '
                'other value is ignored: pixels of which the teacher is unsure could not be written.'
            )
        values[IGNORED] = max(ignored)
    return values.astype(np.uint8)


def _one_ending(names: Sequence[str]) -> str:
    endings = {Path(name).suffix: name for name in names}
    if len(endings) > 1:
        raise ValueError(
            f'the pictures have several endings, {", ".join(sorted(endings))}, e.g. {some(list(endings.values()))}: a '
            'data set of mmseg reads one. Take one folder, or one list (ann_file), for each ending.'
        )
    return next(iter(endings), '')
