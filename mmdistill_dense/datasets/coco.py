"""mmdet's COCO data set, with one clear error where a file is missing or the classes are not the file's."""

from typing import Any

from mmdet.datasets import CocoDataset as _CocoDataset

from mmdistill_dense.datasets.roots import RootCheck
from mmdistill_dense.registry import DATASETS


class _NamedCategories(_CocoDataset.COCOAPI):
    """mmdet's reader; it does not pass over class names that the file does not hold, nor over another order."""

    def get_cat_ids(self, cat_names: Any = (), sup_names: Any = (), cat_ids: Any = ()) -> list[int]:
        found = super().get_cat_ids(cat_names, sup_names, cat_ids)
        names = [self.cats[number]['name'] for number in found]
        if cat_names and names != list(cat_names):
            known = [category['name'] for category in self.dataset['categories']]
            raise ValueError(
                f'CocoDataset: metainfo.classes = {tuple(cat_names)}, but ann_file holds the categories {known}. '
                'Labels are numbered in the order of the file: name classes of the file, in its order.'
            )
        return found


@DATASETS.register_module()
class CocoDataset(RootCheck, _CocoDataset):
    """mmdet's COCO, and anything else in its json format; folder, label file and class names are checked.

    mmdet itself leaves out classes that the label file does not hold, and numbers the others in the order of the
    file, whatever the order of ``metainfo.classes``, without a word.

    Args:
        **kwargs: of mmdet's ``CocoDataset``: ``data_root``, ``ann_file``, ``data_prefix=dict(img=…)``, ``metainfo``.

    Raises:
        FileNotFoundError: For a missing folder or label file, see :func:`mmdistill_dense.datasets.roots.require`.
        ValueError: For classes that are not those of the label file, in its order.
    """

    COCOAPI = _NamedCategories
    also = ' The evaluator reads the labels by itself: set its ann_file too, e.g. test_evaluator.ann_file=FILE.'
