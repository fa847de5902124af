"""The picture of gains: what it draws, read back from its artists and pixels."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from mmdistill_dense.apps.recipes.targets import Target
from mmdistill_dense.apps.suite.rows import Table, make_rows
from mmdistill_dense.apps.suite.write_table import BELOW, gains_png
from tests.suite import made_up

GAINS = {'kd': [3.0, 2.5, 3.0], 'heavy': [-1.0]}


@pytest.fixture
def table(tmp_path: Path) -> Table:
    suite = made_up.definition(tmp_path)
    scores = {'control': made_up.CONTROL, 'teacher': {0: 53.0}}
    for name, gains in GAINS.items():
        scores[name] = {seed: made_up.CONTROL[seed] + gain for seed, gain in enumerate(gains)}
    results = {
        name: {seed: {'score': score, 'config_hash': 'x'} for seed, score in found.items()}
        for name, found in scores.items()
    }
    target = Target('toy_seg', 'mIoU', 76.0, 74.5, None, None, 'somebody')
    return Table(suite, make_rows(suite, results, {}, {'kd': (target,)}))


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """What is drawn."""
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, 'savefig', lambda self, *args, **kw: (drawn.append(self), save(self, *args, **kw))[1])
    return drawn


def test_every_seed_mean_and_published_gain_is_drawn_in_its_line(
    table: Table, figures: list[Figure], tmp_path: Path
) -> None:
    (tmp_path / 'gains.png').write_bytes(gains_png(table))
    (axes,) = figures[0].axes
    points = {(line.get_label(), *np.round(point, 9)) for line in axes.lines for point in line.get_xydata()}
    for place, gains in enumerate(GAINS.values()):
        assert {('one seed', gain, place + BELOW) for gain in gains} <= points
        assert ('mean', round(float(np.mean(gains)), 9), place) in points
    assert ('published', 1.5, 0) in points
    assert [label.get_text() for label in axes.get_yticklabels()] == ['kd (n = 3)', 'heavy (n = 1)']
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first on top


def test_the_interval_is_drawn_where_there_is_one(table: Table, figures: list[Figure], tmp_path: Path) -> None:
    (tmp_path / 'gains.png').write_bytes(gains_png(table))
    (axes,) = figures[0].axes
    (bar,) = axes.containers
    (segment,) = bar.lines[2][0].get_segments()
    gain = table.row('kd').gain
    np.testing.assert_allclose(segment, [[gain.low, 0], [gain.high, 0]])


def test_the_title_has_the_scores_and_the_legend_each_sign_once(
    table: Table, figures: list[Figure], tmp_path: Path
) -> None:
    (tmp_path / 'gains.png').write_bytes(gains_png(table))
    (axes,) = figures[0].axes
    title = axes.get_title(loc='left')
    assert title == 'Made up\nstudent alone 41.17 ± 1.26 (n = 3), teacher 53.00'
    legend = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert legend == ['one seed', 'mean', '95% interval', 'published']


def test_the_picture_is_a_picture_even_of_nothing(table: Table, tmp_path: Path) -> None:
    empty = Table(table.definition, make_rows(table.definition, {}, {}, {}))
    sizes = []
    for name, one in (('some', table), ('none', empty)):
        (tmp_path / f'{name}.png').write_bytes(gains_png(one))
        picture = cv2.imread(str(tmp_path / f'{name}.png'))
        sizes.append(len(np.unique(picture.reshape(-1, 3), axis=0)))
    assert sizes[0] > sizes[1] > 10
