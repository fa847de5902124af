"""The names and colours below the pictures of labels.png."""

import numpy as np
import pytest

from mmdistill_dense.apps.project.contact_sheet import legend


@pytest.mark.parametrize(('classes', 'width', 'rows'), [(2, 324, 2), (11, 1296, 2), (150, 1296, 19)])
def test_each_class_has_its_colour_in_the_legend(classes: int, width: int, rows: int) -> None:
    palette = [(number + 1, 255 - number, 7) for number in range(classes)]
    strip = legend({'classes': [f'a long name of {n}' * 3 for n in range(classes)], 'palette': palette}, width)
    assert strip.shape == (24 * rows, width, 3)
    colours, counts = np.unique(strip.reshape(-1, 3), axis=0, return_counts=True)
    shown = {tuple(map(int, colour)) for colour, count in zip(colours, counts, strict=True) if count >= 320}
    assert {*palette, (0, 0, 0)} <= shown, 'a name covers none of them'


def test_a_name_that_the_font_lacks_is_a_number_in_the_legend() -> None:
    strips = [legend({'classes': [name], 'palette': [(9, 9, 9)]}, 324) for name in ('道路', 'class 0', 'road')]
    assert (strips[0] == strips[1]).all() and (strips[0] != strips[2]).any()
