"""Look through data sets that repeat, join or mix those of others."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.registry import DATASETS

from mmdistill_dense.config.values import chain
from mmdistill_dense.registry import kind_of


def source_datasets(dataset: Any) -> Iterator[Any]:
    """Yield the data sets that read files. A wrapper of another kind that has entries of its own counts as one."""
    mixes = not hasattr(dataset, 'get_data_info') and hasattr(getattr(dataset, 'dataset', None), 'metainfo')  # mosaics
    if isinstance(dataset, ConcatDataset):
        for member in dataset.datasets:
            yield from source_datasets(member)
    elif isinstance(dataset, (RepeatDataset, ClassBalancedDataset)) or mixes:
        yield from source_datasets(dataset.dataset)
    else:
        yield dataset


def classes_of(dataset: Any) -> Sequence[str] | None:
    """Return the class names of a data set's config, looking through wrappers; ``None`` if it names none."""
    # built without reading files: class names may differ from METAINFO (CamVid leaves out void)
    dataset = next(iter(chain(dataset)), None)
    if dataset is None:
        return None
    try:
        return DATASETS.build({**dataset, 'lazy_init': True, 'pipeline': []}).metainfo.get('classes')
    except Exception:  # not a data set of mmengine, or wrong options
        classes = (dataset.get('metainfo') or {}).get('classes')
        with DATASETS.switch_scope_and_registry(None) as registry:  # that of the config
            return classes or (getattr(kind_of(registry, dataset), 'METAINFO', None) or {}).get('classes')


def label_stamp(dataset: Any) -> str:
    """Return 12 hexadecimal digits that change with a data set's label files: names, sizes, content of a list.

    Where the files lie does not count. A data set that paints its pictures has none.
    """
    stamps = set[str]()
    for source in source_datasets(dataset):
        if (file := Path(str(getattr(source, 'ann_file', '') or ''))).is_file():
            stamps.add(hashlib.sha256(file.read_bytes()).hexdigest())
        has_infos = hasattr(source, 'get_data_info') and file.suffix != '.json'  # which holds the labels itself
        infos = (source.get_data_info(number) for number in range(len(source) if has_infos else 0))
        labels = (info.get('seg_map_path') for info in infos if isinstance(info, dict))
        for label in filter(None, labels):
            is_raw = label.lower().endswith(('.bmp', '.tif', '.tiff'))  # not compressed: any change keeps the size
            mark = hashlib.sha256(Path(label).read_bytes()).hexdigest() if is_raw else os.path.getsize(label)
            stamps.add(f'{os.path.basename(label)} {mark}')
    return hashlib.sha256(' '.join(sorted(stamps)).encode()).hexdigest()[:12]


def count_pictures(dataset: Any) -> int:
    """Return how many pictures a data set has; one that is repeated counts once."""
    return min(len(dataset), sum(map(len, source_datasets(dataset))))  # a wrapper may also take a part
