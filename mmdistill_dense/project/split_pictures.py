"""The pictures of each split, and those that two splits share."""

from __future__ import annotations

from collections.abc import Iterator

from mmdistill_dense.datasets.overlap import same_pictures
from mmdistill_dense.project.box_labels import BoxData
from mmdistill_dense.project.label_images import SegData, pairs_of
from mmdistill_dense.utils.messages import some


def shared(data: SegData | BoxData) -> Iterator[str]:
    """Yield a warning for pictures of another split that also train, as the same file or as a copy."""
    train = pictures_of(data, 'train')
    for name in [name for name in data.splits if name != 'train']:
        own = pictures_of(data, name)
        if same := same_pictures(own, train):
            first = [path if path == other else f'{path} is {other}' for path, other in same.items()]
            yield (
                f'WARNING: {len(same)} of the {len(own)} pictures for {name} also train ({some(first, 3)}): the scores '
                'will be too high'
            )


def pictures_of(data: SegData | BoxData, name: str) -> list[str]:
    """Return the paths of the pictures of a split."""
    if isinstance(data, SegData):
        return [str(picture) for picture, _ in pairs_of(data.root, data.splits[name], data.endings)]
    split = data.splits[name]
    return [str(data.root / split.pictures / file) for file in split.files]
