"""mmdet's COCO data set, with a clear error if a file is missing or the classes are not the file's."""

import json
from typing import Any

from mmdet.datasets import CocoDataset as _CocoDataset

from mmdistill_dense.datasets.roots import RootCheck
from mmdistill_dense.registry import DATASETS


class _NamedCategories(_CocoDataset.COCOAPI):
    """mmdet's reader, but class names that are not the file's, in its order, and boxes of unlisted categories raise."""

    def createIndex(self) -> None:
        super().createIndex()
        unknown = sorted({one.get('category_id') for one in self.anns.values()} - set(self.cats), key=str)
        if unknown:
            raise ValueError(
                f'CocoDataset: annotations have category_id {unknown[0]}, which categories of ann_file does not list: '
                f'it lists {sorted(self.cats)}.'
            )

    def get_cat_ids(self, cat_names: Any = (), sup_names: Any = (), cat_ids: Any = ()) -> list[int]:
        found = super().get_cat_ids(cat_names, sup_names, cat_ids)
        names = [self.cats[number]['name'] for number in found]
        if cat_names and names != list(cat_names):
            known = [category['name'] for category in self.dataset['categories']]
            raise ValueError(
                f'CocoDataset: metainfo.classes = {tuple(cat_names)}, but ann_file holds the categories {known}. '
                'Labels are numbered in the order of the file: list classes of the file, in its order.'
            )
        return found


@DATASETS.register_module()
class CocoDataset(RootCheck, _CocoDataset):
    """mmdet's COCO, and any data in its json format; folder, label file and class names are checked.

    mmdet itself silently leaves out classes that the label file does not hold, and numbers the others in the order of
    the file, whatever the order of ``metainfo.classes``.

    Args:
        **kwargs: of mmdet's ``CocoDataset``: ``data_root``, ``ann_file``, ``data_prefix=dict(img=…)``, ``metainfo``.

    Raises:
        FileNotFoundError: For a missing folder or label file, see :func:`mmdistill_dense.datasets.roots.require`.
        ValueError: For classes that are not those of the label file, in its order; for a label file that is damaged,
            has no picture, no box to train with, or boxes of categories that it does not list.
    """

    COCOAPI = _NamedCategories
    also = ' The evaluator reads the labels by itself: set its ann_file too, e.g. test_evaluator.ann_file=FILE.'

    def load_data_list(self) -> list[dict]:
        """List the pictures; raise for a damaged file and for one without boxes, where mmdet goes on."""
        try:
            found = super().load_data_list()
        except KeyError as error:
            raise ValueError(
                f'CocoDataset: ann_file = {self.ann_file!r} is not in the json format of COCO: an entry has no key '
                f'{error}. The file is a dict of three lists: images (id, file_name, width, height), annotations (id, '
                'image_id, category_id, bbox, area, iscrowd) and categories (id, name).'
            ) from error
        except (json.JSONDecodeError, AssertionError) as error:
            raise ValueError(
                f'CocoDataset: ann_file = {self.ann_file!r} is damaged or not in the json format of COCO: {error!r}'
            ) from error
        self._check_boxes(found)
        if not found:
            raise ValueError(f'CocoDataset: ann_file = {self.ann_file!r} lists no picture.')
        if not self.test_mode and not any(one['instances'] for one in found):
            raise ValueError(
                f'CocoDataset: ann_file = {self.ann_file!r} holds no box of the classes {self.metainfo["classes"]}: '
                'there is nothing to train with.'
            )
        return found

    def _check_boxes(self, found: list[dict]) -> None:
        """Refuse boxes of which most reach beyond their picture: those are corners, read as corner and size."""
        ends = [(one, box['bbox'][2:]) for one in found for box in one['instances']]
        beyond = sum(x > one['width'] + 1 or y > one['height'] + 1 for one, (x, y) in ends)
        if beyond > len(ends) / 2:
            raise ValueError(
                f'CocoDataset: {beyond} of {len(ends)} boxes in ann_file = {self.ann_file!r} reach beyond their '
                'picture. A bbox is [left, top, width, height] in pixels, not two corners; width and height of each '
                'picture must be those of its file.'
            )
