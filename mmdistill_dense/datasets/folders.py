"""Folders of pictures and label images: CamVid and data of your own, with clear errors at start."""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmdistill_dense.registry import DATASETS
from mmdistill_dense.utils.validate import some

with redirect_stdout(io.StringIO()):  # mmseg prints a line for each part of it that is not installed
    from mmseg import datasets as mmseg_datasets

CLASSES = (  # of CamVid
    'sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign_symbol', 'fence', 'car', 'pedestrian', 'bicyclist',
)  # fmt: skip
# of the classes in mmseg's order, among the 34 of labelIds.png
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def require(paths: dict[str, str | None], where: str, also: str = '') -> None:
    """Raise a ``FileNotFoundError`` for the first local path of a data set, by config key, that does not exist.

    ``where`` is the data set's class, ``also`` what else names the place of the data.
    """
    for key, path in paths.items():
        if path and '://' not in path and not Path(path).exists():
            keys = ' or '.join(dict.fromkeys(('data_root', key)))
            raise FileNotFoundError(
                f'{where}: {key} = {path!r} does not exist (looked for {str(Path(path).absolute())!r}). '
                f'{_nearest(Path(path))} Correct {keys} in the config, or by --cfg-options, e.g. '
                'test_dataloader.dataset.data_root=DIR, inside another data set '
                'train_dataloader.dataset.datasets.0.data_root=DIR, without labels model.unlabelled.data_root=DIR, '
                f'or set the environment variable MMDISTILL_DATA to the folder of all data sets.{also}'
            )


def _nearest(path: Path) -> str:
    parent = next(folder for folder in path.absolute().parents if folder.is_dir())
    names = sorted(entry.name for entry in parent.iterdir() if not entry.name.startswith('.'))
    return f'The folder {str(parent)!r} exists and holds {some(names, 5) or "nothing"}.'


class RootCheck:
    """Mixin before a data set of mmseg or mmdet that checks its folders and its list file, and names a picture that
    cannot be read or does not fit its label image."""

    also = ''  # what else a message says of missing files, such as the command that makes them
    looked_at: int | None = 20  # pictures whose label images are looked for at the start; None: all

    def load_data_list(self) -> list[dict]:
        """Check folders and list file, list as the data set does, and look for the first label images."""
        prefixes = {f'data_prefix.{key}': path for key, path in getattr(self, 'data_prefix', {}).items()}
        require(prefixes | {'ann_file': getattr(self, 'ann_file', None)}, type(self).__name__, self.also)
        entries: list[dict] = super().load_data_list()  # type: ignore[misc]
        labels = getattr(self, 'data_prefix', {}).get('seg_map_path') or '://'
        looked_at = [] if '://' in labels else entries[: self.looked_at]
        missing = [entry['seg_map_path'] for entry in looked_at if not Path(entry.get('seg_map_path') or '.').exists()]
        if missing:
            endings = ', '.join(f'{name}={getattr(self, name)!r}' for name in ('seg_map_suffix', 'img_suffix'))
            problem = f'{len(missing)} of {len(looked_at)} pictures have no label image'
            example = f'the first would be {missing[0]!r} ({endings}); there are {_some_names(labels)}'
            raise FileNotFoundError(f'{type(self).__name__}: {problem}; {example}.{self.also}')
        if looked_at and (fault := _first_label_fault(file := looked_at[0]['seg_map_path'], self)):
            raise ValueError(f'{type(self).__name__}: {file} {fault}{self.also}')
        return entries

    def prepare_data(self, idx: int) -> Any:
        """Read a picture as the data set does, and name the file of one that cannot be trained with.

        A batch of one with a label image of another size would be trained with shifted labels; for a value that is no
        class the loss would fail, on a GPU with an unreadable error, and the metric leaves it out.
        """
        try:
            results = super().prepare_data(idx)  # type: ignore[misc]
        except FileNotFoundError as error:
            problem = f'{error.filename or self._files(idx)} does not exist: see data_root, data_prefix and ann_file'
            where = _nearest(Path(error.filename or '.'))
            raise FileNotFoundError(f'{type(self).__name__}: {problem}. {where}') from error
        except (OSError, cv2.error) as error:
            reason = str(error).strip().splitlines()[0]
            raise OSError(f'{type(self).__name__}: {self._files(idx)} cannot be read: {reason}') from error
        if fault := _label_fault(results, self) or _depth_fault(self, idx):
            raise ValueError(f'{type(self).__name__}: {self._files(idx)} {fault}')
        return results

    def _files(self, idx: int) -> str:
        entry = self.get_data_info(idx)  # type: ignore[attr-defined]
        return ' or '.join(str(entry[key]) for key in ('img_path', 'seg_map_path') if entry.get(key))


def _label_fault(results: Any, dataset: Any) -> str:
    """Say what is wrong with a packed label map: its size, or values that are neither classes nor ignored.

    In validation it is usually read after the picture's resize and stays as large as the file's picture.
    """
    sample_dict: Any = results if isinstance(results, Mapping) else {}
    picture, sample = sample_dict.get('inputs'), sample_dict.get('data_samples')
    label = getattr(sample, 'gt_sem_seg', None)
    if label is None:
        return ''
    if isinstance(picture, Tensor):
        size, label_size, whole = picture.shape[-2:], label.data.shape[-2:], sample.metainfo.get('ori_shape', ())[:2]
        if tuple(label_size) not in (tuple(size), tuple(whole)):
            sizes = f'after the pipeline the picture has {tuple(size)} pixels, its label {tuple(label_size)}'
            return f'do not fit: {sizes}; a label has the size of its picture, and one channel.'
    return _no_classes(label.data, dataset)


def _depth_fault(dataset: Any, idx: int) -> str:
    """Say which number of a label image of more than 8 bits mmseg reads as another one."""
    file = dataset.get_data_info(idx).get('seg_map_path') if 'seg_map_path' in dataset.data_prefix else None
    with suppress(OSError), Image.open(file or '') as image:
        if image.mode.startswith(('I', 'F')) and (highest := int(image.getextrema()[1])) > 255:
            return f'has the label {highest}, of which 8 bits are read: {highest % 256}. Number the classes from 0.'
    return ''


def _no_classes(labels: Tensor, dataset: Any) -> str:
    ignored, classes = getattr(dataset, 'ignore_index', None), dataset.metainfo.get('classes')  # mmdet ignores none
    values = labels.masked_fill(labels == ignored, 0) if classes and ignored is not None else labels[:0]
    if not values.numel() or int(values.max()) < len(classes):
        return ''
    problem = f'has the labels {some(values[values >= len(classes)].unique().tolist())}'
    rule = f'metainfo.classes has {len(classes)} classes: 0 to {len(classes) - 1}, and {ignored} is ignored'
    return f'{problem}, but {rule}. Name the others, or make them {ignored}.'


def _first_label_fault(file: str, dataset: Any) -> str:
    """Say which values of a label image are no classes, as it will be loaded, before any network is."""
    try:
        with Image.open(file) as image:
            values = torch.from_numpy(np.array(image)).unique().long()
    except (OSError, SyntaxError, TypeError):  # told with its picture, when it is read for training
        return ''
    if dataset.reduce_zero_label:
        values = torch.where(values % 255 == 0, 255, values - 1)
    label_map: dict[int, int] = dataset.label_map or {}
    return _no_classes(torch.tensor([label_map.get(value, value) for value in values.tolist()]), dataset)


@DATASETS.register_module()
class CityscapesDataset(RootCheck, mmseg_datasets.CityscapesDataset):
    """mmseg's Cityscapes; its folders are checked.

    Label images are read as the site gives them, ``…_labelIds.png``, where none is ``…_gtFine_labelTrainIds.png``:
    19 of the 34 ids are classes, the others are ignored.
    """

    also = ' The archives of the site, leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, hold both folders.'

    seg_map_suffix: str
    label_map: dict[int, int] | None

    def load_data_list(self) -> list[dict]:
        """List the pictures, with the label images that are there."""
        folder, suffix, raw_suffix = self.data_prefix.get('seg_map_path'), self.seg_map_suffix, '_gtFine_labelIds.png'
        local = folder and suffix == '_gtFine_labelTrainIds.png' and '://' not in folder
        if local and any(Path(folder).rglob(f'*{raw_suffix}')) and not any(Path(folder).rglob(f'*{suffix}')):
            self.seg_map_suffix = raw_suffix
            label_map = self.label_map or {number: number for number in range(len(_CITYSCAPES_IDS))}
            classes = {value: label_map[number] for number, value in enumerate(_CITYSCAPES_IDS)}
            self.label_map = dict.fromkeys(range(256), int(self.ignore_index)) | classes
        return super().load_data_list()


@DATASETS.register_module()
class PascalVOCDataset(RootCheck, mmseg_datasets.PascalVOCDataset):
    """mmseg's PASCAL VOC 2012; its folders and its list file are checked."""

    also = ' SegmentationClassAug and aug.txt: mim run mmseg voc_aug VOCdevkit SBD, where SBD holds dataset/cls.'


@DATASETS.register_module()
class ADE20KDataset(RootCheck, mmseg_datasets.ADE20KDataset):
    """mmseg's ADE20K; its folders are checked."""

    also = ' ADEChallengeData2016.zip holds both folders; the full ADE20K has other numbers.'


@DATASETS.register_module()
class COCOStuffDataset(RootCheck, mmseg_datasets.COCOStuffDataset):
    """mmseg's COCO-Stuff 164k of 171 classes; its folders are checked."""

    also = ' The label images *_labelTrainIds.png: mim run mmseg coco_stuff164k FOLDER, once.'


@DATASETS.register_module()
class SegFolderDataset(RootCheck, mmseg_datasets.BaseSegDataset):
    """Pictures in one folder and label images of the same names in another; files that do not match raise at start.

    Args:
        **kwargs: of mmseg's ``BaseSegDataset``: ``data_root``, ``data_prefix=dict(img_path=…, seg_map_path=…)``,
            ``seg_map_suffix='.png'``, ``metainfo=dict(classes=…, palette=…)``, and ``reduce_zero_label=True`` where
            label 0 is no class.
        img_suffix: Ending of the pictures, or several. Of two pictures of one name, that of the first ending is used.
        label_values: Value of each class in the label images; all other values are ignored. Default: 0, 1, 2, … They
            do not go together with ``reduce_zero_label``, which would change the values first.
    """

    looked_at = None

    def __init__(
        self, *, img_suffix: str | Sequence[str] = '.jpg', label_values: Sequence[int] = (), **kwargs: Any
    ) -> None:
        self.endings = (img_suffix,) if isinstance(img_suffix, str) else tuple(img_suffix)
        if not self.endings:
            raise ValueError("SegFolderDataset: img_suffix names no ending: give '.jpg', or several in a list.")
        self.label_values = values = tuple(label_values)
        if any(not isinstance(label, int) or not 0 <= label <= 255 for label in values) or len({*values}) < len(values):
            problem = 'must be different whole numbers from 0 to 255, one a class'
            raise ValueError(f'SegFolderDataset: label_values={values} {problem}.')
        if values and kwargs.get('reduce_zero_label'):
            problem = f'reduce_zero_label=True changes labels before label_values={values} are looked up'
            raise ValueError(f'SegFolderDataset: {problem}: set it to False, also in LoadAnnotations.')
        super().__init__(img_suffix=self.endings[0], **kwargs)

    def get_label_map(self, new_classes: Sequence[str] | None = None) -> dict[int, Any] | None:
        if not self.label_values:
            return super().get_label_map(new_classes)
        if len(self.label_values) != (count := len(new_classes or ())):
            problem = f'must have one value for each of the {count} metainfo.classes, not {len(self.label_values)}'
            raise ValueError(f'SegFolderDataset: label_values={self.label_values} {problem}.')
        if 0 <= self.ignore_index < count < 256:
            problem = f'is the number of a class, and the label of all values but {self.label_values}'
            raise ValueError(f'SegFolderDataset: ignore_index={self.ignore_index} {problem}: leave it at 255.')
        classes = {value: number for number, value in enumerate(self.label_values)}
        return {value: classes.get(value, self.ignore_index) for value in range(256)}

    def load_data_list(self) -> list[dict]:
        """List the pictures; raise if there are none, where mmseg fails later."""
        rows = super().load_data_list() if len(self.endings) == 1 else self._of_all_endings()
        where = self.data_prefix.get('img_path')
        if not self.ann_file:  # hidden folders, as .ipynb_checkpoints, are no data
            above = len(Path(where or '').parts)
            rows = [row for row in rows if not any(part[0] == '.' for part in Path(row['img_path']).parts[above:])]
        if not rows:
            problem = f'no file in {where!r} ends with img_suffix={" or ".join(map(repr, self.endings))}'
            raise FileNotFoundError(f'SegFolderDataset: {problem}; there are {_some_names(where)}.')
        return rows

    def _of_all_endings(self) -> list[dict]:
        """List the pictures of each ending as mmseg does, and take one of each name; a list holds names alone."""
        rows: dict[str, dict] = {}
        for ending in self.endings:
            self.img_suffix = ending
            for row in super().load_data_list():
                name = row['img_path'].removesuffix(ending)
                if name not in rows or (not Path(rows[name]['img_path']).exists() and Path(row['img_path']).exists()):
                    rows[name] = row
        self.img_suffix = self.endings[0]
        is_list = self.ann_file and not Path(self.ann_file).is_dir()
        return list(rows.values()) if is_list else sorted(rows.values(), key=lambda row: row['img_path'])


def _some_names(folder: str) -> str:
    return some(sorted(path.name for path in Path(folder).iterdir()), 3) or 'no files'


@DATASETS.register_module()
class CamVidDataset(RootCheck, mmseg_datasets.BaseSegDataset):
    """Road scenes filmed from a car, 480 x 360, in the 11-class split 367 / 101 / 233 (train / val / test).

    The label files hold 0 to 10 and 11 for void. ``METAINFO`` names all twelve and the data set uses the first eleven,
    so that mmseg's label map sends void to 255, which every loss and metric ignores.

    Both layouts in circulation fit: ``images/train/X.jpg`` with ``annotations/train/X.png`` (the default suffixes), and
    the SegNet repository's ``train/X.png`` with ``trainannot/X.png``
    (``img_suffix='.png', data_prefix=dict(img_path='train', seg_map_path='trainannot')``).

    The options are those of ``BaseSegDataset``; ``metainfo.classes`` may pick fewer than the eleven.

    Source: Brostow, Fauqueur, Cipolla, Pattern Recognition Letters 2009; split of Badrinarayanan et al., PAMI 2017.
    """

    METAINFO = dict(
        classes=(*CLASSES, 'void'),
        palette=[
            [128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222], [128, 128, 0],
            [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0], [0, 128, 192], [0, 0, 0],
        ],
    )  # fmt: skip

    def __init__(self, *, metainfo: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(metainfo={'classes': CLASSES, **(metainfo or {})}, **kwargs)
