"""Look through data sets that repeat, join or mix those of others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset

_REPEATING = (RepeatDataset, ClassBalancedDataset)  # each picture of theirs occurs once or more


def unwrapped(dataset: Any) -> Iterator[Any]:
    """Yield the data sets that read files. A wrapper of another kind that has entries of its own counts as one."""
    if isinstance(dataset, ConcatDataset):
        for member in dataset.datasets:
            yield from unwrapped(member)
    elif isinstance(dataset, _REPEATING) or (  # the others are those that mix: mosaics
        not hasattr(dataset, 'get_data_info') and hasattr(getattr(dataset, 'dataset', None), 'metainfo')
    ):
        yield from unwrapped(dataset.dataset)
    else:
        yield dataset


def count_pictures(dataset: Any) -> int:
    """Return how many pictures a data set has; one that is repeated counts once."""
    return min(len(dataset), sum(map(len, unwrapped(dataset))))  # a wrapper may also take a part
