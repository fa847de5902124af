"""The names and colours below the pictures of labels.png."""

import numpy as np
import pytest

from mmdistill_dense.apps.project.contact_sheet import legend


@pytest.mark.parametrize(('classes', 'width', 'rows'), [(2, 324, 2), (150, 1296, 19)])
def test_each_class_has_its_colour_in_the_legend(classes: int, width: int, rows: int) -> None:
    palette = [(number + 1, 255 - number, 7) for number in range(classes)]
    strip = legend(
        {'classes': [f'道路 {n}' if n else 'a long name' * 3 for n in range(classes)], 'palette': palette}, width
    )
    colours, counts = np.unique(strip.reshape(-1, 3), axis=0, return_counts=True)
    shown = {tuple(map(int, colour)) for colour, count in zip(colours, counts, strict=True) if count >= 320}
    assert strip.shape == (24 * rows, width, 3) and {*palette, (0, 0, 0)} <= shown, 'a name covers none of them'
