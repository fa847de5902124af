"""Folders of pictures and label images: mmseg's data sets and one for data of your own, with clear errors at start."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmseg.datasets import ADE20KDataset as _ADE20KDataset
from mmseg.datasets import BaseSegDataset
from mmseg.datasets import CityscapesDataset as _CityscapesDataset
from mmseg.datasets import COCOStuffDataset as _COCOStuffDataset
from mmseg.datasets import PascalVOCDataset as _PascalVOCDataset

from mmdistill_dense.datasets.roots import RootCheck
from mmdistill_dense.registry import DATASETS
from mmdistill_dense.utils.messages import some


@DATASETS.register_module()
class CityscapesDataset(RootCheck, _CityscapesDataset):
    """mmseg's Cityscapes; its folders are checked."""


@DATASETS.register_module()
class PascalVOCDataset(RootCheck, _PascalVOCDataset):
    """mmseg's PASCAL VOC 2012; its folders and its list file are checked."""


@DATASETS.register_module()
class ADE20KDataset(RootCheck, _ADE20KDataset):
    """mmseg's ADE20K; its folders are checked."""


@DATASETS.register_module()
class COCOStuffDataset(RootCheck, _COCOStuffDataset):
    """mmseg's COCO-Stuff 164k of 171 classes; its folders are checked."""


@DATASETS.register_module()
class SegFolderDataset(RootCheck, BaseSegDataset):
    """Pictures in one folder and label images of the same names in another; files that do not match raise at start.

    Args:
        **kwargs: of mmseg's ``BaseSegDataset``: ``data_root``, ``data_prefix=dict(img_path=…, seg_map_path=…)``,
            ``seg_map_suffix='.png'``, ``metainfo=dict(classes=…, palette=…)``, and ``reduce_zero_label=True`` where
            label 0 is no class.
        img_suffix: Ending of the pictures, or several. Of two pictures of one name, that of the first ending is used.
        label_values: Value of each class in the label images; all other values are ignored. Default: 0, 1, 2, … They
            do not go together with ``reduce_zero_label``, which would change the values first.

    Raises:
        FileNotFoundError: For a missing folder, a folder without pictures of ``img_suffix``, a picture without label.
        ValueError: For ``label_values`` that no label image can hold, or of which two are equal.
    """

    def __init__(
        self, *, img_suffix: str | Sequence[str] = '.jpg', label_values: Sequence[int] = (), **kwargs: Any
    ) -> None:
        self.endings = (img_suffix,) if isinstance(img_suffix, str) else tuple(img_suffix)
        if not self.endings:
            raise ValueError("SegFolderDataset: img_suffix names no ending: give '.jpg', or several in a list.")
        self.label_values = tuple(label_values)
        _check_values(self.label_values, bool(kwargs.get('reduce_zero_label')))
        super().__init__(img_suffix=self.endings[0], **kwargs)

    def get_label_map(self, new_classes: Sequence[str] | None = None) -> dict[int, Any] | None:
        """Return the class of each label value; mmseg's ``LoadAnnotations`` applies it."""
        if not self.label_values:
            return super().get_label_map(new_classes)
        if len(self.label_values) != len(new_classes or ()):
            raise ValueError(
                f'SegFolderDataset: label_values={self.label_values} has {len(self.label_values)} values, and '
                f'metainfo.classes {len(new_classes or ())} names: give one value for each.'
            )
        known = {value: number for number, value in enumerate(self.label_values)}
        return {value: known.get(value, self.ignore_index) for value in range(256)}

    def load_data_list(self) -> list[dict]:
        """List the pictures; raise if there are none or one has no label, where mmseg fails later."""
        found = super().load_data_list() if len(self.endings) == 1 else self._of_all_endings()
        where, labels = self.data_prefix.get('img_path'), self.data_prefix.get('seg_map_path')
        if not found:
            raise FileNotFoundError(
                f'SegFolderDataset: no file in {where!r} ends with img_suffix={" or ".join(map(repr, self.endings))}; '
                f'there are {_some_names(where)}.'
            )
        missing = [one['seg_map_path'] for one in found if labels and not Path(one['seg_map_path']).exists()]
        if missing:
            raise FileNotFoundError(
                f'SegFolderDataset: {len(missing)} of {len(found)} pictures have no label image; the first would be '
                f'{missing[0]!r}. A label has the name of its picture, with seg_map_suffix={self.seg_map_suffix!r} in '
                f'place of img_suffix={self.img_suffix!r}; there are {_some_names(labels)}.'
            )
        return found

    def _of_all_endings(self) -> list[dict]:
        """List the pictures of each ending as mmseg does, and take one of each name; a list holds names alone."""
        found: dict[str, dict] = {}
        for ending in self.endings:
            self.img_suffix = ending
            for one in super().load_data_list():
                name = one['img_path'].removesuffix(ending)
                if name not in found or (not _there(found[name]) and _there(one)):
                    found[name] = one
        self.img_suffix = self.endings[0]
        listed = self.ann_file and not Path(self.ann_file).is_dir()
        return list(found.values()) if listed else sorted(found.values(), key=lambda one: one['img_path'])


def _check_values(values: Sequence[int], reduced: bool) -> None:
    if any(not isinstance(value, int) or not 0 <= value <= 255 for value in values) or len({*values}) < len(values):
        raise ValueError(
            f'SegFolderDataset: label_values={tuple(values)} must be different whole numbers from 0 to 255, one for '
            'each class: a label image has one byte for each pixel.'
        )
    if values and reduced:
        raise ValueError(
            'SegFolderDataset: reduce_zero_label=True changes the values in the label images before label_values='
            f'{tuple(values)} are looked up, so classes would be mixed up. Set reduce_zero_label=False, also in '
            'LoadAnnotations: values that are not listed are ignored already.'
        )


def _there(entry: dict) -> bool:
    return Path(entry['img_path']).exists()


def _some_names(folder: str) -> str:
    return some(sorted(path.name for path in Path(folder).iterdir()), 3) or 'no files'
