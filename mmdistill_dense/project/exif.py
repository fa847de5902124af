"""EXIF orientations: whether labels are drawn on a photograph as it is stored, or as viewers and mmcv turn it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mmdistill_dense.project.open_pictures import Size, opened, orientation, size_of
from mmdistill_dense.utils.messages import some

WAYS = {'apply': 'as EXIF turns them', 'ignore': 'as they are stored'}


def stored_pixels(pictures: Sequence[Path], drawn: Callable[[Path], Size], given: str | None, notes: list[str]) -> bool:
    """Return whether pictures must be read as they are stored. The headers of all of them are read."""
    turned = []
    fitting: dict[str, list[Path]] = {way: [] for way in WAYS}
    for path in pictures:
        with opened(path) as picture:
            if orientation(picture) == 1:
                continue
            sizes = {'apply': size_of(picture), 'ignore': size_of(picture, stored=True)}
        turned.append(path)
        fits = [way for way in WAYS if sizes[way] == drawn(path)]
        if len(fits) == 1:
            fitting[fits[0]].append(path)
    if not turned:
        return False
    count, first = f'{len(turned)} of {len(pictures)} pictures', some(turned, 3)
    said = f'{count} have an EXIF orientation that turns or mirrors them ({first})'
    told = [way for way in WAYS if fitting[way]]
    if len(told) == 2:
        raise ValueError(
            f'--data: {said}. The labels of {len(fitting["apply"])} of them have the size of the turned picture, those '
            f'of {len(fitting["ignore"])} that of the stored one ({some(fitting["ignore"], 3)}). Remove the '
            'orientation from the latter (exiftool -Orientation= FILE): then all labels fit.'
        )
    if told and given not in (None, *told):
        labels = f'The sizes of {len(fitting[told[0]])} labels'
        raise ValueError(f'--exif {given}: {said}. {labels} fit --exif {told[0]} alone.')
    if not told and given is None:
        raise ValueError(
            f'--data: {said}, and sizes do not tell whether their labels are turned too. Look at one of them with its '
            'label. Write --exif apply if the label fits the picture as viewers show it, --exif ignore if it fits the '
            'stored pixels.'
        )
    way = given or told[0]
    notes.append(f'WARNING: {said}. They are read {WAYS[way]}, {"as --exif says" if given else "as their labels are"}')
    return way == 'ignore'
