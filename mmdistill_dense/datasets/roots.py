"""Check that a data set is there and that its pictures can be used; errors name the file and what to set."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
from torch import Tensor

from mmdistill_dense.utils.messages import some

ENV = 'MMDISTILL_DATA'

Size = tuple[int, ...]


def require(paths: dict[str, str | None], where: str, also: str = '') -> None:
    """Check that every local path of a data set exists.

    Args:
        paths: path by the config key it came from; empty ones and addresses of remote stores are skipped.
        where: the data set's class, for the message.
        also: what else names the place of the data, for the message.

    Raises:
        FileNotFoundError: names the first missing path, its key and how to set another one.
    """
    for key, path in paths.items():
        if path and '://' not in path and not Path(path).exists():
            raise FileNotFoundError(
                f'{where}: {key} = {path!r} does not exist (looked for {str(Path(path).absolute())!r}). '
                f'{_nearest(Path(path))} Correct data_root (with which the path begins) or {key} of your own data set. '
                f'For a data set of this package set the environment variable {ENV} to the folder that holds all data '
                f'sets, or put the data set there. One loader alone: --cfg-options '
                f'test_dataloader.dataset.data_root=DIR, or, for a data set that is a member of another, '
                f'train_dataloader.dataset.datasets.0.data_root=DIR and so on for each.{also}'
            )


def _nearest(path: Path) -> str:
    """Say which part of a missing path exists, and what lies there."""
    there = next(folder for folder in path.absolute().parents if folder.is_dir())
    names = sorted(entry.name for entry in there.iterdir() if not entry.name.startswith('.'))
    return f'The folder {str(there)!r} exists and holds {some(names, 5) or "nothing"}.'


class RootCheck:
    """Mixin before a data set of mmseg or mmdet that checks its folders and its list file, and names a picture that
    cannot be read or does not fit its label image."""

    also = ''

    def load_data_list(self) -> list[dict]:
        """Check folders and list file, then list as the data set does."""
        prefixes = {f'data_prefix.{key}': path for key, path in getattr(self, 'data_prefix', {}).items()}
        require(prefixes | {'ann_file': getattr(self, 'ann_file', None)}, type(self).__name__, self.also)
        return super().load_data_list()  # type: ignore[misc]

    def prepare_data(self, idx: int) -> Any:
        """Read a picture as the data set does.

        Raises:
            FileNotFoundError: For a missing one; says where its path comes from.
            OSError: For a damaged picture or label image; not all decoders name the file.
            ValueError: For a label image of another size; a batch of one would be trained with shifted labels. For a
                label value that is no class; the loss would fail without a file's name, on a GPU with an unreadable
                error, and the metric would leave it out.
        """
        try:
            results = super().prepare_data(idx)  # type: ignore[misc]
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f'{type(self).__name__}: {error.filename or self._files(idx)} does not exist. Its folder comes from '
                'data_root and data_prefix, its name from ann_file, if there is one. '
                f'{_nearest(Path(error.filename or "."))}'
            ) from error
        except (OSError, cv2.error) as error:
            what = str(error).strip().splitlines()[0]
            raise OSError(f'{type(self).__name__}: {self._files(idx)} cannot be read: {what}') from error
        unequal = _unequal_sizes(results)
        if unequal:
            raise ValueError(
                f'{type(self).__name__}: {self._files(idx)} do not fit: after the pipeline the picture has '
                f'{unequal[0]} pixels and its label {unequal[1]}. A label image is as large as its picture and has one '
                'channel.'
            )
        outside = _outside(results, self)
        if outside:
            raise ValueError(f'{type(self).__name__}: {self._files(idx, "seg_map_path")} {outside}')
        return results

    def _files(self, idx: int, *keys: str) -> str:
        entry = self.get_data_info(idx)  # type: ignore[attr-defined]
        return ' or '.join(str(entry[key]) for key in keys or ('img_path', 'seg_map_path') if entry.get(key))


def _outside(results: Any, dataset: Any) -> str:
    """Say which values of a packed label map are neither a class of the data set nor ignored; empty if none is."""
    sample = results.get('data_samples') if isinstance(results, Mapping) else None
    label = getattr(sample, 'gt_sem_seg', None)
    ignored = getattr(dataset, 'ignore_index', None)  # of mmseg's data sets alone
    classes = dataset.metainfo.get('classes')
    if label is None or ignored is None or not classes:
        return ''
    values = label.data.masked_fill(label.data == ignored, 0)
    if int(values.max()) < len(classes):
        return ''
    return (
        f'has the labels {some(values[values >= len(classes)].unique().tolist())}, but metainfo.classes has '
        f'{len(classes)} classes: 0 to {len(classes) - 1}, and {ignored} is ignored. Name the missing classes, or '
        'change these values in the file.'
    )


def _unequal_sizes(results: Any) -> tuple[Size, Size] | None:
    """Return the sizes of a packed picture and of its label map if they do not fit, else ``None``.

    In validation the label map is usually read after the picture's resize and stays as large as the file's picture.
    """
    packed = results if isinstance(results, Mapping) else {}
    picture: Any = packed.get('inputs')
    sample: Any = packed.get('data_samples')
    label = getattr(sample, 'gt_sem_seg', None)
    if label is None or not isinstance(picture, Tensor):
        return None
    shown, drawn = tuple(picture.shape[-2:]), tuple(label.data.shape[-2:])
    whole = tuple(sample.metainfo.get('ori_shape', ()))[:2]
    return None if drawn in (shown, whole) else (shown, drawn)
