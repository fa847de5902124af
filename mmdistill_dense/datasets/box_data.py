"""Data sets for detection: mmdet's COCO with clear errors for its label file, and painted pictures with boxes."""

import io
import logging
from collections import Counter
from contextlib import redirect_stdout
from functools import partial
from typing import Any

from mmengine.logging import print_log

from mmdistill_dense.datasets.folders import RootCheck
from mmdistill_dense.datasets.label_files import check_categories, has_area, left_out, wrong_ids
from mmdistill_dense.datasets.shapes import CLASSES, PaintedPictures, Picture, ShapesSegDataset, paint
from mmdistill_dense.registry import DATASETS, TRANSFORMS

with redirect_stdout(io.StringIO()):  # mmdet prints a line for each part of it that is not installed
    from mmdet import datasets as mmdet_datasets
    from mmdet.datasets.transforms import LoadAnnotations
    from mmdet.structures.mask import encode_mask_results


class _CheckedFile(mmdet_datasets.CocoDataset.COCOAPI):
    """mmdet's reader, but entries that are wrong, and class names that are not the file's, in its order, raise.

    ``tested``: whether the file is only tested on; the metric needs iscrowd of every annotation. ``notes`` receives
    what training and metric read in different ways.
    """

    def __init__(self, tested: bool, notes: list[str], file: str) -> None:
        self._tested, self._notes = tested, notes
        super().__init__(file)

    def createIndex(self) -> None:
        self.dataset.setdefault('annotations', [])  # files of test sets without labels have none
        check_categories(self.dataset, () if self._tested else ('annotations.iscrowd',))
        super().createIndex()
        boxes = self.dataset['annotations']
        reasons = Counter(
            left_out(box, (picture['height'], picture['width']))
            or ('' if has_area(box) else 'have the area 0')
            or ('have the mark ignore, not iscrowd' if box.get('ignore') and not box.get('iscrowd') else '')
            for box in boxes
            if (picture := self.imgs.get(box['image_id']))
        )
        self._notes += [f'{count} of {len(boxes)} annotations {reason}' for reason, count in reasons.items() if reason]
        if self._tested and wrong_ids(boxes):
            self._notes.append('an annotation has the id 0, or a text as id, which the metric cannot match')

    def get_cat_ids(self, cat_names: Any = (), sup_names: Any = (), cat_ids: Any = ()) -> list[int]:
        numbers = super().get_cat_ids(cat_names, sup_names, cat_ids)
        if cat_names and [self.cats[number]['name'] for number in numbers] != list(cat_names):
            categories = [category['name'] for category in self.dataset['categories']]
            text = f'metainfo.classes = {tuple(cat_names)}, but ann_file holds the categories {categories}'
            raise ValueError(f'{text}. Labels are numbered in the order of the file: list its classes, in its order.')
        return numbers


@DATASETS.register_module()
class CocoDataset(RootCheck, mmdet_datasets.CocoDataset):
    """mmdet's COCO, and any data in its json format; folder, label file and class names are checked.

    mmdet itself silently leaves out classes that the label file does not hold, and numbers the others in the order of
    the file, whatever the order of ``metainfo.classes``. A warning tells of boxes that are not trained on and yet count
    as missed, because mmdet's metric reads the file itself.

    Args:
        **kwargs: of mmdet's ``CocoDataset``: ``data_root``, ``ann_file``, ``data_prefix=dict(img=…)``, ``metainfo``.
    """

    also = ' The evaluator reads the labels by itself: set its ann_file too, e.g. test_evaluator.ann_file=FILE.'

    def load_data_list(self) -> list[dict]:
        """List the pictures; raise for a damaged file and for one without boxes, where mmdet goes on."""
        where, notes = f'CocoDataset: ann_file = {self.ann_file!r}', list[str]()
        if 'img' not in self.data_prefix:
            raise ValueError(f'{where}: data_prefix = {self.data_prefix} has no img, the folder of the pictures.')
        self.COCOAPI = partial(_CheckedFile, self.test_mode, notes)
        try:
            entries = super().load_data_list()
        except (ValueError, AssertionError) as error:
            damage = '' if type(error) is ValueError else ' is damaged or not in the json format of COCO'
            raise ValueError(f'{where}{damage}: {error}') from error
        if not entries:
            raise ValueError(f'{where} lists no picture.')
        if not self.test_mode and not any(not box['ignore_flag'] for entry in entries for box in entry['instances']):
            crowds = ['all boxes are marked by iscrowd'] if any(entry['instances'] for entry in entries) else []
            details = f' ({"; ".join([*notes, *crowds])})' if notes or crowds else ''
            content = f'no box of the classes {self.metainfo["classes"]}'
            raise ValueError(f'{where} holds {content}: there is nothing to train with{details}.')
        if notes:
            note = 'The metric counts them as missed: even perfect predictions do not reach the full score'
            effect = note if self.test_mode else 'They are not trained on'
            advice = 'Mend the file, or use the one that `mmdistill new` writes beside its data.py.'
            print_log(f'{where}: {"; ".join(notes)}. {effect}. {advice}', 'current', logging.WARNING)
        return entries


@DATASETS.register_module()
class ShapesDetDataset(PaintedPictures, mmdet_datasets.BaseDetDataset):
    """Pictures of textured shapes with a box and a mask for every visible object, painted on demand.

    Picture ``i`` is the one of ``ShapesSegDataset`` under the same seed and painting. A pipeline begins with
    ``dict(type='mmdistill_dense.LoadShapesDet')``; a test pipeline that packs ``instances`` among its ``meta_keys``
    lets ``CocoMetric`` score boxes and masks without an annotation file.

    The options are those of ``ShapesSegDataset`` and ``BaseDetDataset``. Objects of classes that
    ``metainfo['classes']`` leaves out are painted, but not annotated.
    """

    METAINFO = dict(classes=CLASSES[1:], palette=[tuple(c) for c in ShapesSegDataset.METAINFO['palette'][1:]])

    def load_data_list(self) -> list[dict]:
        """List the pictures; nothing is painted yet."""
        chosen = self.metainfo['classes']
        if unknown := set(chosen) - set(CLASSES[1:]):
            raise ValueError(f'ShapesDetDataset: metainfo.classes has {sorted(unknown)}; known: {CLASSES[1:]}.')
        height, width = self.painting.get('size', (96, 128))  # as `paint`
        labels = {CLASSES.index(name): label for label, name in enumerate(chosen)}
        entries = self._entries(height=height, width=width, labels=labels)
        return [{**entry, 'img_id': entry['index']} for entry in entries]

    def get_cat_ids(self, idx: int) -> list[int]:
        """Paint a picture and return the label of each of its objects, for samplers that balance classes."""
        return [label for label, _ in _labelled_instances(self.get_data_info(idx))[1]]


@TRANSFORMS.register_module()
class LoadShapesDet(LoadAnnotations):
    """Paint a ``ShapesDetDataset`` entry: image, boxes, labels and masks in one step.

    Args:
        with_mask: also give the instance masks, in ``gt_masks`` and in ``instances``.
    """

    def __init__(self, with_mask: bool = False) -> None:
        super().__init__(with_mask=with_mask)

    def transform(self, results: dict) -> dict:
        """Add ``img`` and its shapes, ``gt_bboxes`` with labels and flags, ``instances`` and, if asked for, masks."""
        picture, objects = _labelled_instances(results)
        size = picture.labels.shape
        instances = [dict(bbox=[*map(float, shape.box)], bbox_label=label, ignore_flag=0) for label, shape in objects]
        if self.with_mask:
            for instance, (_, shape) in zip(instances, objects, strict=True):
                (lengths,) = encode_mask_results([shape.mask])
                instance['mask'] = {**lengths, 'counts': lengths['counts'].decode()}
        results.update(img=picture.image, img_shape=size, ori_shape=size, instances=instances)
        return super().transform(results)


def _labelled_instances(entry: dict) -> tuple[Picture, list]:
    """Paint the picture of an entry; return it with (label, instance) for each object of the chosen classes."""
    picture, labels = paint(entry['seed'], entry['index'], **entry['painting']), entry['labels']
    return picture, [(labels[instance.label], instance) for instance in picture.instances if instance.label in labels]
