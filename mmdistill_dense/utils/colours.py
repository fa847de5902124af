"""The colours of classes in pictures."""

from collections.abc import Sequence

import cv2
import numpy as np

_GRID = 8  # values of each channel among which colours are chosen


def palette_of(palette: Sequence[Sequence[int]] | None, classes: int) -> np.ndarray:
    """Return a data set's own colours, uint8 RGB; distinct ones if it has too few, or those that mmseg draws."""
    mmseg_colours = np.random.RandomState(42).randint(0, 255, (classes, 3))  # mmseg's, of which some are nearly equal
    if palette is not None and len(palette) >= max(classes, 1) and not np.array_equal(palette, mmseg_colours):
        return np.asarray(palette, np.uint8)
    return distinct_colours(classes)


def distinct_colours(count: int) -> np.ndarray:
    """Return the colours of classes, each as far as can be from those before it, in CIE Lab."""
    values = np.linspace(32, 255, _GRID)
    grid = np.stack(np.meshgrid(values, values, values, indexing='ij'), -1).reshape(-1, 3)
    lab = cv2.cvtColor((grid / 255).astype(np.float32)[None], cv2.COLOR_RGB2LAB)[0]
    chosen, far = [0], np.full(len(grid), np.inf)
    while len(chosen) < min(count, len(grid)):
        far = np.minimum(far, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
        chosen.append(int(far.round(2).argmax()))
    return np.resize(grid[chosen], (max(count, 1), 3)).astype(np.uint8)
