"""FRS: its formula, its levels and weights, real detectors, and what it refuses."""

import math

import pytest
import torch

from mmdistill_dense.distillers import FRS
from mmdistill_dense.losses import feature_richness, rich_entropy, rich_squares
from tests.distillers.steps import draw

TAPS = ('neck', 'bbox_head[0]')


def test_the_naive_formula():
    """Loops over pictures, cells and channels, with math of plain numbers."""
    own, theirs, z, t = (draw(2, channels, 2, 3, seed=seed) for seed, channels in enumerate((3, 3, 4, 4)))
    squares = entropy = total = 0.0
    for b in range(2):
        for y in range(2):
            for x in range(3):
                chances = [1 / (1 + math.exp(-float(value))) for value in t[b, :, y, x]]
                rich = max(chances)
                total += rich
                squares += rich * sum(
                    float(a - c) ** 2 for a, c in zip(own[b, :, y, x], theirs[b, :, y, x], strict=True)
                )
                for score, chance in zip(z[b, :, y, x], chances, strict=True):
                    mine = 1 / (1 + math.exp(-float(score)))
                    entropy -= rich * (chance * math.log(mine) + (1 - chance) * math.log(1 - mine))
    rich = feature_richness(t)
    assert float(rich.sum()) == pytest.approx(total, rel=1e-12)
    halved = rich_squares(own, theirs, rich, 2 * rich.sum()), rich_entropy(z, t, rich, 2 * rich.sum())
    assert [float(value) for value in halved] == pytest.approx([squares / total / 2, entropy / total / 2], rel=1e-12)
    assert float(rich_squares(own, theirs, rich)) == pytest.approx(squares / total, rel=1e-12)
    assert float(rich_entropy(z, t, rich)) == pytest.approx(entropy / total, rel=1e-12)


def test_a_wrong_score_that_is_certain_still_learns():
    """A probability of it rounds to 1 in float32."""
    z, t = torch.full((1, 1, 1, 1), 30.0, requires_grad=True), torch.full((1, 1, 1, 1), -30.0)
    loss = rich_entropy(z, t, feature_richness(t) + 1)
    loss.backward()
    assert float(loss) == pytest.approx(30) and float(z.grad) == pytest.approx(1)


def test_levels_are_summed_and_each_has_its_own_convolution():
    frs = FRS(feature_weight=1.0, class_weight=1.0, align='conv')
    shapes = {tap: [torch.Size((1, 4, side, side)) for side in (4, 2)] for tap in TAPS}
    frs.setup(shapes, shapes)
    assert len(frs.convs) == 2 and frs.convs[0].kernel_size == (1, 1)
    student, teacher = (
        {tap: [draw(2, 4, side, side, seed=seed + side).float() for side in (4, 2)] for tap in TAPS} for seed in (0, 9)
    )
    whole = frs(student, teacher, None)
    parts = [
        rich_squares(conv(own), theirs, feature_richness(scores))
        for conv, own, theirs, scores in zip(frs.convs, student['neck'], teacher['neck'], teacher[TAPS[1]], strict=True)
    ]
    torch.testing.assert_close(whole['loss_feature'], sum(parts))


@pytest.mark.parametrize(('own', 'theirs', 'options', 'words'), [
    (((8, 8), (4, 4)), ((8, 8), (4, 4)), dict(levels=1), 'gives 2 levels and .* 1: tap the levels'),
    (((8, 8),), ((4, 4),), {}, r'level 0 of .* has maps of .*\(8, 8\)'),
    (((8, 8),), ((8, 8),), dict(scores=6), 'has 4 channels and 6: both heads need the same classes and anchors'),
    (((8, 8),), ((8, 8),), dict(width=5, align='none'), 'has 4 and 5 channels: set align'),
])  # fmt: skip
def test_pairs_that_do_not_fit_are_refused(own, theirs, options, words):
    frs = FRS(align=options.get('align', 'conv3'))
    student = {tap: [torch.Size((1, 4, *size)) for size in own] for tap in TAPS}
    teacher = {
        tap: [torch.Size((1, options.get(name, 4), *size)) for size in theirs]
        for tap, name in zip(TAPS, ('width', 'scores'), strict=True)
    }
    if 'levels' in options:
        student[TAPS[1]], teacher[TAPS[1]] = student[TAPS[1]][:1], teacher[TAPS[1]][:1]
    with pytest.raises(ValueError, match=words):
        frs.setup(student, teacher)
