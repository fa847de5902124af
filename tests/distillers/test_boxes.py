"""Methods that weigh maps by boxes or by the teacher's scores: DeFeat, FGD and FRS, and boxes on levels and cells."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData

from mmdistill_dense.distillers import FGD, FRS, DeFeat
from mmdistill_dense.distillers.ground_truth import boxes_on_map
from mmdistill_dense.losses import feature_richness, rich_entropy, rich_squares
from tests.distillers.steps import boxed, draw, run, set_up
from tools.benchmark import reference

# DeFeat


BOXES = [
    [[3.0, 9.0, 60.0, 62.5], [20.0, 20.0, 27.0, 60.0], [-5.0, -3.0, 30.0, 12.0]],
    # the last is as large as two bases of 14: on the next level
    [[60.0, 60.0, 64.0, 64.0], [0.0, 0.0, 64.0, 64.0], [64.0, 10.0, 64.0, 50.0], [0.0, 30.0, 27.0, 57.0]],
]


def pictures(boxes):
    actual = boxed(len(boxes))
    for sample, box in zip(actual, boxes, strict=True):
        sample.gt_instances = InstanceData(bboxes=torch.tensor(box).reshape(-1, 4))
    return actual


def naive_mask(boxes, side, stride, level, levels, base):
    mask = [[0.0] * side for _ in range(side)]
    for x1, y1, x2, y2 in boxes:
        size = math.log2(math.sqrt((x2 - x1 + 1) * (y2 - y1 + 1)) / base + 1e-6)
        if min(max(math.floor(size), 0), levels - 1) != level:
            continue
        columns = range(max(int(x1 / stride), 0), min(int(x2 / stride), side))
        rows = range(max(int(y1 / stride), 0), min(int(y2 / stride), side))
        if not columns or not rows:
            columns, rows = ([min(max(int(start / stride), 0), side - 1)] for start in (x1, y1))
        for row in rows:
            for column in columns:
                mask[row][column] = 1.0
    return mask


@pytest.mark.parametrize('base', [56.0, 14.0])
@pytest.mark.parametrize('boxes', [BOXES, [BOXES[0], []], [[], []]], ids=['boxes', 'one without', 'none'])
def test_defeat_is_its_formula(boxes, base):
    sides = [8, 4, 2]
    levels = [((3, side, side), (3, side, side)) for side in sides]
    defeat = set_up(DeFeat, *levels, align='none', base_size=base, foreground_weight=0.7, background_weight=1.3)
    student, teacher = ([draw(2, 3, side, side, seed=seed + side) for side in sides] for seed in (0, 50))
    found = defeat({'tap': student}, {'tap': teacher}, pictures(boxes))
    expected = [0.0, 0.0]
    for level, side in enumerate(sides):
        masks = [naive_mask(one, side, 64 // side, level, 3, base) for one in boxes]
        for kind, weight in enumerate((0.7, 1.3)):
            total = count = 0.0
            for b, y, x in itertools.product(range(2), range(side), range(side)):
                if masks[b][y][x] == 1 - kind:
                    count += 1
                    error = student[level][b, :, y, x] - teacher[level][b, :, y, x]
                    total += sum(float(value) ** 2 for value in error)
            expected[kind] += weight / 3 * total / max(1, 2 * 3 * count)
    assert [float(found[f'loss_{name}']) for name in ('foreground', 'background')] == pytest.approx(expected, rel=1e-12)
    assert bool(expected[0]) == any(boxes)


# FGD


WEIGHTS = dict(alpha=0.1, beta=0.2, gamma=0.3, lambda_=0.4)


def _context(block, x):
    first, norm, _, last = block.transform
    parameters = (first.weight, first.bias, norm.weight, norm.bias, last.weight, last.bias)
    return x + reference.fgd_context(x, block.mask.weight, *parameters)[..., None, None]


def test_equals_masked_copies_of_the_maps():
    """Square roots of the masks and attentions multiplied into both maps, then plain squared errors."""
    distiller = set_up(FGD, [(4, 8, 8), (4, 8, 8)], **WEIGHTS, temperature=0.7)
    student, teacher = draw(2, 4, 8, 8), draw(2, 4, 8, 8, seed=1)
    for parameter in distiller.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    actual = run(distiller, student, teacher, boxed())
    (where_s, which_s), (where, which) = (reference.fgd_attention(x, 0.7) for x in (student, teacher))
    boxes = [sample.gt_instances.bboxes.double() / 8 for sample in boxed()]
    fore = torch.stack([reference.fgd_foreground(box, student) for box in boxes])
    back = torch.stack([(mask == 0).double() / max((mask == 0).sum(), 1) for mask in fore])
    assert 0 < (fore > 0).double().mean() < 1
    focal = 0
    for weight, mask in ((0.1, fore), (0.2, back)):
        scale = (mask[:, None] * where[:, None] * which[..., None, None]).sqrt()
        focal += weight * F.mse_loss(student * scale, teacher * scale, reduction='sum') / 2
    torch.testing.assert_close(actual['loss_focal'], focal)
    attention = ((where_s - where).abs().sum() + (which_s - which).abs().sum()) / 2
    torch.testing.assert_close(actual['loss_attention'], 0.3 * attention)
    blocks = distiller.parts[0]
    out_s, out_t = _context(blocks['student'], student), _context(blocks['teacher'], teacher)
    torch.testing.assert_close(actual['loss_relation'], 0.4 * (out_s - out_t).square().sum() / 2)


@pytest.mark.parametrize(('padded', 'size', 'strides'), [
    *(((800, 1344), (-(-800 // number), -(-1344 // number)), (number, number)) for number in (8, 16, 32, 64, 128)),
    *(((96, 160), (-(-96 // number), -(-160 // number)), (number, number)) for number in (64, 128)),
    ((60, 36), (20, 6), (6, 3)),  # no powers of two: the ratio of the sides
    ((64, 128), (16, 8), (16, 4)),
])  # fmt: skip
def test_strides_are_those_of_the_anchors(padded, size, strides):
    samples, boxes = boxed(padded=padded), [sample.gt_instances.bboxes for sample in boxed()]
    samples[0].gt_instances.bboxes = HorizontalBoxes(boxes[0])  # mmdet's own type
    for box, actual in zip(boxes, boxes_on_map(samples, size, 'fgd', torch.zeros(())), strict=True):
        torch.testing.assert_close(actual[: len(box)], box / torch.tensor([*strides, *strides]))


# FRS


TAPS = ('neck', 'bbox_head[0]')


def test_frs_is_its_formula():
    """Loops over pictures, cells and channels, with math of plain numbers."""
    own, theirs, z, t = (draw(2, channels, 2, 3, seed=seed) for seed, channels in enumerate((3, 3, 4, 4)))
    squares = entropy = total = 0.0
    for b, y, x in itertools.product(range(2), range(2), range(3)):
        chances = [1 / (1 + math.exp(-float(value))) for value in t[b, :, y, x]]
        rich = max(chances)
        total += rich
        squares += rich * sum(float(a - c) ** 2 for a, c in zip(own[b, :, y, x], theirs[b, :, y, x], strict=True))
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


def test_levels_have_their_own_convolutions():
    frs = FRS(feature_weight=1.0, class_weight=1.0, align='conv')
    shapes = {tap: [torch.Size((1, 4, side, side)) for side in (4, 2)] for tap in TAPS}
    frs.setup(shapes, shapes)
    assert len(frs.convs) == 2 and frs.convs[0].kernel_size == (1, 1)
    maps, targets, scores = ([draw(2, 4, n, n, seed=seed + n).float() for n in (4, 2)] for seed in (0, 9, 18))
    whole = frs(dict.fromkeys(TAPS, maps), dict(zip(TAPS, (targets, scores), strict=True)), None)
    levels = zip(frs.convs, maps, targets, scores, strict=True)
    parts = [rich_squares(conv(a), b, feature_richness(c)) for conv, a, b, c in levels]
    torch.testing.assert_close(whole['loss_feature'], sum(parts))


def test_pairs_that_do_not_fit_are_refused():
    small, maps = [(4, 4, 4)], [(4, 8, 8)]
    for student, teacher, words in (  # of neck and head
        ((maps + small, maps), (maps + small, maps), 'gives 2 levels and .* 1: tap the levels'),
        ((maps, maps), (small, small), r'level 0 of .* has maps of .*\(8, 8\)'),
        ((maps, maps), (maps, [(6, 8, 8)]), 'has 4 channels and 6: both heads need the same classes and anchors'),
        ((maps, maps), ([(5, 8, 8)], maps), 'has 4 and 5 channels: set align'),
    ):
        sides = ([[torch.Size((1, *level)) for level in levels] for levels in side] for side in (student, teacher))
        with pytest.raises(ValueError, match=words):
            FRS(align='none').setup(*(dict(zip(TAPS, side, strict=True)) for side in sides))
