"""Methods for teachers that give maps alone: FeatureMatch, TokenRelations, QueryMatch, QueueKL, SimReg."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from mmengine.dataset import RepeatDataset

from mmdistill_dense.datasets import ShapesSegDataset
from mmdistill_dense.distillers import PCD, FeatureMatch, QueryMatch, QueueKL, SimReg, TokenRelations
from mmdistill_dense.distillers.base import RunState
from mmdistill_dense.distillers.feature_match import ChannelStatistics
from mmdistill_dense.losses import feature_match, query_match, token_relations
from tests.distillers.case import DistillerCase
from tests.distillers.steps import draw, set_up

DOUBLE = torch.float64


def padded():
    """Samples of two pictures of 32 x 48 pixels, the second one of which is 24 x 16 and padded."""
    shapes = (32, 48), (24, 16)
    return [SimpleNamespace(metainfo=dict(img_shape=shape, batch_input_shape=(32, 48))) for shape in shapes]


@pytest.mark.parametrize(('name', 'term'), [('relations', 'loss_relations'), ('query', 'loss_query')])
def test_padding_takes_no_part(name, term):
    made, student, teacher = globals()[f'{name}_of'](), draw(2, 3, 4, 6).requires_grad_(), draw(2, 4, 4, 6, seed=1)
    loss = made({'tap': [student]}, {'tap': [teacher]}, padded())[term]
    pictures = [(student[:1], teacher[:1]), (student[1:, :, :3, :2], teacher[1:, :, :3, :2])]
    apart = [made({'tap': [s]}, {'tap': [t]}, None)[term] for s, t in pictures]
    torch.testing.assert_close(loss, torch.stack(apart).mean())
    loss.backward()
    assert not student.grad[1, :, 3:].any() and not student.grad[1, :, :, 2:].any() and student.grad[1].any()


# FeatureMatch


def match_of(shapes=((3, 2, 3), (4, 4, 6)), **options):
    return set_up(FeatureMatch, shapes, **options)


def match_naive(student, teacher, a, b, c, kept=None):
    """Plain arithmetic, a position at a time."""
    pictures = []
    for number, (s, t) in enumerate(zip(student, teacher, strict=True)):
        values = []
        for y, x in ((y, x) for y in range(s.shape[1]) for x in range(s.shape[2])):
            if kept is not None and not kept[number][y][x]:
                continue
            u, v = s[:, y, x].tolist(), t[:, y, x].tolist()
            cos = sum(p * q for p, q in zip(u, v, strict=True)) / math.hypot(*u) / math.hypot(*v)
            d = [abs(p - q) for p, q in zip(u, v, strict=True)]
            huber = sum(x * x / 2 if x < 1 else x - 0.5 for x in d) / len(d)
            values.append(a * (1 - cos) + b * huber + c * sum(x * x for x in d) / len(d))
        pictures.append(sum(values) / len(values))
    return sum(pictures) / len(pictures)


@pytest.mark.parametrize('weights', [(0.5, 0.5, 0.0), (1.0, 0.0, 0.0), (0.2, 0.3, 0.7)])
@pytest.mark.parametrize('part', [False, True])
def test_match_is_its_formula(weights, part):
    student, teacher = 2 * draw(2, 3, 4, 5), draw(2, 3, 4, 5, seed=1)
    inside = torch.zeros(2, 4, 5, dtype=torch.bool)
    inside[0, :3, :2] = inside[1, :1] = True
    found = feature_match(student, teacher, **dict(zip(('cosine', 'smooth_l1', 'mse'), weights, strict=True)),
                          inside=inside if part else None)  # fmt: skip
    assert found.item() == pytest.approx(
        match_naive(student, teacher, *weights, inside.tolist() if part else None), rel=1e-12
    )


def test_a_position_without_a_direction_has_no_part_in_the_cosine():
    student, teacher = draw(1, 3, 1, 2), draw(1, 3, 1, 2, seed=1)
    teacher[..., 0] = 0
    found = feature_match(student, teacher, cosine=1.0, smooth_l1=0.0)
    assert found.item() == pytest.approx(match_naive(student[..., 1:], teacher[..., 1:], 1.0, 0.0, 0.0) / 2, rel=1e-12)


def test_a_step_is_the_formula_with_the_standardised_map():
    made = match_of(cosine=0.3, mse=0.2)
    student, teacher = draw(2, 3, 2, 3), 5 * draw(2, 4, 4, 6, seed=1) + 7
    mean, std = teacher.mean((0, 2, 3)), teacher.std((0, 2, 3), correction=0)
    target = (teacher - mean[:, None, None]) / std[:, None, None]
    aligned = torch.nn.functional.interpolate(made.aligns[0](student), (4, 6), mode='bilinear')
    found = made({'tap': [student]}, {'tap': [teacher]}, None)['loss_match']
    assert found.item() == pytest.approx(match_naive(aligned, target, 0.3, 0.5, 0.2), rel=1e-9)


def test_a_map_that_shrinks_is_averaged():
    made = match_of(((3, 2, 3), (4, 4, 6)), resize='teacher', standardise=None)
    student, teacher = draw(2, 3, 2, 3), draw(2, 4, 4, 6, seed=1)
    pooled = teacher.unflatten(3, (3, 2)).unflatten(2, (2, 2)).mean((3, 5))
    found = made({'tap': [student]}, {'tap': [teacher]}, None)['loss_match']
    assert found.item() == pytest.approx(match_naive(made.aligns[0](student), pooled, 0.5, 0.5, 0.0), rel=1e-9)


def test_statistics_are_of_all_positions_of_the_first_steps():
    made = match_of(steps=3)
    maps = [(step + 1) * draw(2, 4, 4, 6, seed=step) + 10 * step for step in range(5)]
    for step, teacher in enumerate(maps):
        made.train(step != 1)  # a step in evaluation leaves them
        made({'tap': [draw(2, 3, 2, 3)]}, {'tap': [teacher]}, None)
        seen = torch.stack([x for number, x in enumerate(maps[: step + 1]) if number != 1][:3])
        torch.testing.assert_close(made.parts[0].mean, seen.mean((0, 1, 3, 4)))
        torch.testing.assert_close(made.parts[0].var, seen.var((0, 1, 3, 4), correction=0))
    assert (made.parts[0].seen, made.parts[0].count) == (3, 3 * 2 * 4 * 6)


def test_a_channel_far_from_zero_keeps_its_digits():
    """DINOv3 has channels whose mean is a hundred times their deviation."""
    part = ChannelStatistics(1, 10)
    maps = [draw(4, 1, 16, 16, seed=seed) + 3e3 for seed in range(3)]
    for x in maps:
        part.update([x.float()], None)
    assert part.var.item() == pytest.approx(torch.cat(maps).var(correction=0).item(), rel=1e-4)


def test_a_constant_channel_is_divided_by_a_thousandth():
    part = ChannelStatistics(2, 1)
    x = torch.stack([torch.full((3, 3), 5.0), torch.arange(9.0).view(3, 3)])[None]
    part.update([x], None)
    assert torch.equal(part(x)[0, 0], torch.zeros(3, 3)) and part(x + 1)[0, 0, 0, 0].item() == pytest.approx(1e3)


def test_padding_takes_no_part_in_match_and_its_statistics():
    """A padded batch is its cropped pictures: loss, gradient and statistics."""
    made, alone = match_of(), match_of()
    student, teacher = draw(2, 3, 4, 6), draw(2, 4, 4, 6, seed=1)
    cropped = slice(None), slice(None), slice(3), slice(2)  # 24 x 16 of 32 x 48, cells of 8
    student.requires_grad_()
    loss = made({'tap': [student]}, {'tap': [teacher]}, padded())['loss_match']
    rows = torch.cat([teacher[0].flatten(1), teacher[1:][cropped][0].flatten(1)], 1)
    torch.testing.assert_close(made.parts[0].mean, rows.mean(1))
    torch.testing.assert_close(made.parts[0].var, rows.var(1, correction=0))
    alone.load_state_dict(made.state_dict())
    pictures = [(student[:1], teacher[:1]), (student[1:][cropped], teacher[1:][cropped])]
    apart = [alone.eval()({'tap': [s]}, {'tap': [t]}, None)['loss_match'] for s, t in pictures]
    expected = torch.stack(apart).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert not student.grad[1, :, 3:].any() and not student.grad[1, :, :, 2:].any() and student.grad[1].any()


def test_statistics_of_a_checkpoint_go_on():
    first = match_of(steps=3)
    maps = [draw(2, 4, 4, 6, seed=step) for step in range(4)]
    for teacher in maps[:2]:
        first({'tap': [draw(2, 3, 2, 3)]}, {'tap': [teacher]}, None)
    second = match_of(steps=3)
    second({'tap': [draw(2, 3, 2, 3)]}, {'tap': [maps[3]]}, None)  # has counted its own step
    second.load_state_dict(first.state_dict())
    losses = [[made({'tap': [draw(2, 3, 2, 3)]}, {'tap': [teacher]}, None)['loss_match'] for teacher in maps[2:]]
              for made in (first, second)]  # fmt: skip
    assert torch.equal(*(torch.stack(found) for found in losses))
    states = [made.state_dict() for made in (first, second)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_broken_map_does_not_stay_in_the_statistics():
    made, teacher = match_of(), draw(2, 4, 4, 6)
    for x in (teacher, teacher * float('nan'), teacher):
        loss = made({'tap': [draw(2, 3, 2, 3)]}, {'tap': [x]}, None)['loss_match']
    assert loss.isfinite()
    torch.testing.assert_close(made.parts[0].mean, teacher.mean((0, 2, 3)))


# TokenRelations


def relations_naive(student, teacher, tau, diagonal=True, rows=None, kept=None):
    """Plain arithmetic, a similarity at a time."""

    def distribution(vectors, m, columns):
        unit = [[x / math.hypot(*v) for x in v] for v in vectors]
        scores = [math.exp(sum(a * b for a, b in zip(unit[m], unit[n], strict=True)) / tau) for n in columns]
        return [score / sum(scores) for score in scores]

    pictures = []
    for number, (s, t) in enumerate(zip(student, teacher, strict=True)):
        s, t = (x.flatten(1).t().tolist() for x in (s, t))
        inside = [n for n in range(len(s)) if kept is None or kept[number][n]]
        values = []
        for m in inside if rows is None else [m for m in rows if m in inside]:
            columns = [n for n in inside if diagonal or n != m]
            p, q = distribution(t, m, columns), distribution(s, m, columns)
            values.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
        pictures.append(sum(values) / len(values) if values else 0)
    return sum(pictures) / len(pictures)


@pytest.mark.parametrize('diagonal', [True, False])
@pytest.mark.parametrize('rows', [None, [0, 3, 8]])
@pytest.mark.parametrize('part', [True, False])
def test_relations_are_their_formula(diagonal, rows, part):
    student, teacher = draw(2, 3, 2, 5), draw(2, 4, 2, 5, seed=1)
    inside = torch.tensor([[1, 1, 1, 1, 0, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]]).bool() if part else None
    options = dict(diagonal=diagonal, rows=None if rows is None else torch.tensor(rows))
    shown = None if inside is None else inside.view(2, 2, 5)
    found = token_relations(student, teacher, temperature=0.3, inside=shown, **options)
    kept = None if inside is None else inside.tolist()
    assert found.item() == pytest.approx(relations_naive(student, teacher, 0.3, diagonal, rows, kept), rel=1e-11)


def relations_of(**options):
    return set_up(TokenRelations, [(3, 4, 6), (4, 4, 6)], **options)


def test_rows_are_drawn_anew_and_their_mean_is_the_whole():
    made, student, teacher = relations_of(num_pixels=6), draw(2, 3, 4, 6), draw(2, 4, 4, 6, seed=1)
    whole = relations_of(num_pixels=None)({'tap': [student]}, {'tap': [teacher]}, None)['loss_relations'].item()
    found = []
    for made.state.iteration in range(200):
        found.append(made({'tap': [student]}, {'tap': [teacher]}, None)['loss_relations'].item())
    assert len(set(found)) > 150 and sum(found) / len(found) == pytest.approx(whole, rel=0.05)


@pytest.mark.parametrize(
    ('diagonal', 'side', 'words'), [(True, (1, 1), 'map of 1 x 1'), (False, (1, 2), 'map of 1 x 2')]
)
def test_too_few_positions_are_refused(diagonal, side, words):
    made = TokenRelations('tap', diagonal=diagonal)
    shapes = {'tap': [torch.Size((1, 3, *side))]}
    with pytest.raises(ValueError, match=words):
        made.setup(shapes, shapes)
    TokenRelations('tap', diagonal=True).setup(*2 * ({'tap': [torch.Size((1, 3, 1, 2))]},))


# QueryMatch


def query_naive(query, value, teacher, kept=None):
    """Plain arithmetic, a position at a time."""
    pictures = []
    for number, maps in enumerate(zip(query, value, teacher, strict=True)):
        q, v, t = (x.flatten(1).t().tolist() for x in maps)
        inside = [n for n in range(len(q)) if kept is None or kept[number][n]]
        errors = []
        for m in inside:
            scores = [math.exp(sum(a * b for a, b in zip(q[m], t[n], strict=True))) for n in inside]
            read = [
                sum(score * v[n][c] for score, n in zip(scores, inside, strict=True)) / sum(scores)
                for c in range(len(q[m]))
            ]
            errors.append(sum((x - y) ** 2 for x, y in zip(read, t[m], strict=True)) / len(read))
        pictures.append(sum(errors) / len(errors) if errors else 0)
    return sum(pictures) / len(pictures)


MASK = torch.tensor([[1, 1, 1, 1, 0, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]]).bool()


@pytest.mark.parametrize('inside', [None, MASK, torch.zeros_like(MASK)], ids=['all', 'some', 'none'])
def test_query_is_its_formula(inside):
    maps = [draw(2, 3, 2, 5, seed=seed) for seed in range(3)]
    found = query_match(*maps, inside=None if inside is None else inside.view(2, 2, 5))
    kept = None if inside is None else inside.tolist()
    assert found.item() == pytest.approx(query_naive(*maps, kept), rel=1e-11)


def query_of():
    return set_up(QueryMatch, [(3, 4, 6), (4, 4, 6)])


def test_queries_and_values_are_linear_in_the_normalised_map():
    made, student, teacher = query_of(), draw(2, 3, 4, 6), draw(2, 4, 4, 6, seed=1)
    part = made.aligns[0]
    with torch.no_grad():
        part.norm.weight.uniform_(0.5, 2)
    tokens = student.flatten(2).mT
    spread = (tokens.var(2, correction=0, keepdim=True) + part.norm.eps).sqrt()
    normal = (tokens - tokens.mean(2, keepdim=True)) / spread * part.norm.weight
    q, v = (normal @ layer.weight.t() + layer.bias for layer in (part.query, part.value))
    expected = query_naive(*(x.mT.reshape(2, 4, 4, 6) for x in (q, v)), teacher)
    assert made({'tap': [student]}, {'tap': [teacher]}, None)['loss_query'].item() == pytest.approx(expected, rel=1e-10)


# QueueKL


class TestQueueKL(DistillerCase):
    option = dict(type='QueueKL', queue_size=16, queue_init='random')


def unit(*shape, seed=0):
    return F.normalize(draw(*shape, seed=seed), dim=-1)


def queue_naive(student, teacher, queue, t, s):
    """Plain arithmetic, a row at a time."""

    def distribution(row, tau):
        scores = [math.exp(sum(a * b for a, b in zip(row, key, strict=True)) / tau) for key in queue.tolist()]
        return [score / sum(scores) for score in scores]

    total = 0.0
    for x, y in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = distribution(y, t), distribution(x, s)
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(student)


def test_its_gradient_is_that_of_the_cross_entropy():
    """Which SEED minimises; and the loss is its formula with two temperatures."""
    made, student, teacher = queue_of(temperature=0.05, student_temperature=0.2), draw(3, 3), draw(3, 4, seed=1)
    student.requires_grad_()
    maps = student[:, :, None, None].expand(3, 3, 4, 6), teacher[:, :, None, None].expand(3, 4, 4, 6)
    loss = made({'tap': [maps[0]]}, {'tap': [maps[1]]}, None)['loss_queue']
    s, t = F.normalize(student @ weights(made).t() + made.aligns[0][0].bias, dim=1), F.normalize(teacher, dim=1)
    assert loss.item() == pytest.approx(queue_naive(s, t, t, 0.05, 0.2), rel=1e-9)
    entropy = F.cross_entropy(s @ t.t() / 0.2, (t @ t.t() / 0.05).softmax(1))
    torch.testing.assert_close(*(torch.autograd.grad(one, student)[0] for one in (loss, entropy)))


def test_a_picture_has_its_own_key_beside_those_of_earlier_steps():
    """SEED, a row at a time; then the keys of the step enter. The teacher is as near to its own key as can be."""
    made = queue_of(temperature=0.05, student_temperature=0.2, own_key=True)
    earlier = torch.zeros(0, 4, dtype=DOUBLE)
    for step in range(3):
        student, teacher = draw(2, 3, 4, 6, seed=step).requires_grad_(), draw(2, 4, 4, 6, seed=10 + step)
        made.state.iteration = step
        loss = made({'tap': [student]}, {'tap': [teacher]}, None)['loss_queue']
        s = F.normalize(F.conv2d(student, made.aligns[0][0].weight, made.aligns[0][0].bias).mean((2, 3)), dim=1)
        t = F.normalize(teacher.mean((2, 3)), dim=1)
        each = [
            queue_naive(a[None], b[None], torch.cat([b[None], earlier]), 0.05, 0.2) for a, b in zip(s, t, strict=True)
        ]
        assert loss.item() == pytest.approx(sum(each) / 2, rel=1e-8)
        keys = [torch.cat([b[None], earlier]) for b in t]
        own = sum(F.cross_entropy((a @ k.t() / 0.2)[None], (b @ k.t() / 0.05).softmax(0)[None])
                  for a, b, k in zip(s, t, keys, strict=True)) / 2  # fmt: skip
        torch.testing.assert_close(*(torch.autograd.grad(one, student, retain_graph=True)[0] for one in (loss, own)))
        earlier = torch.cat([earlier, t])[-5:]
        assert int(made.parts[0].filled) == len(earlier)


def test_a_sharp_teacher_makes_seed_the_contrast_of_vectors():
    """With the released temperature of 1e-4 the teacher's distribution is 1 at its own key."""
    rows, student, teacher = unit(16, 4, seed=5), draw(3, 4).requires_grad_(), draw(3, 4, seed=1)
    seed = set_up(QueueKL, [(4,), (4,)], queue_size=16, head=None, own_key=True, temperature=1e-4,
                  student_temperature=0.2, queue_init='random', monitor_interval=0)  # fmt: skip
    pcd = set_up(
        PCD, [(4, 1, 1), (4, 1, 1)], queue_size=16, head=None, vectors=True, queue_init='random', monitor_interval=0
    )
    seed.state = pcd.state = RunState()
    seed.parts[0].rows.copy_(rows)
    pcd.queue.rows.copy_(rows)
    found = [seed({'tap': [student]}, {'tap': [teacher]}, None)['loss_queue']]
    found.append(pcd(*({'tap': [x[:, :, None, None]]} for x in (student, teacher)), None)['loss_pcd'])
    torch.testing.assert_close(*found)
    torch.testing.assert_close(*(torch.autograd.grad(one, student)[0] for one in found))


class TestSimReg(DistillerCase):
    option = dict(type='SimReg', head=dict(type='linear'))


def test_simreg_is_the_angle_to_the_mean_of_the_teachers_map():
    made = set_up(SimReg, [(3, 4, 6), (5, 2, 2)], head=dict(type='mlp4', hidden=7, bias=True))
    shapes = [tuple(one.weight.shape[:2]) for one in made.aligns[0].modules() if isinstance(one, torch.nn.Conv2d)]
    assert shapes == [(7, 3), (3, 7), (7, 3), (5, 7)] and made.aligns[0][1][3].bias is not None
    student, teacher = draw(4, 3, 4, 6), draw(4, 5, 2, 2, seed=1)
    found = made({'tap': [student]}, {'tap': [teacher]}, None)['loss_simreg']
    rows = made.aligns[0](student.mean((2, 3), keepdim=True))[..., 0, 0].tolist()
    total = 0.0
    for s, t in zip(rows, teacher.mean((2, 3)).tolist(), strict=True):
        lengths = math.sqrt(sum(a * a for a in s) * sum(b * b for b in t))
        total += 2 - 2 * sum(a * b for a, b in zip(s, t, strict=True)) / lengths
    assert found.item() == pytest.approx(total / 4, rel=1e-9)


def test_two_views_enter_one_after_the_other():
    made = queue_of()
    students, teachers = ([draw(2, c, 4, 6, seed=seed) for seed in (c, c + 9)] for c in (3, 4))
    loss = made({'tap': students}, {'tap': teachers}, None)['loss_queue']
    loss.backward()
    weight, made = made.aligns[0][0].weight.grad, queue_of()
    apart = [made({'tap': [s]}, {'tap': [t]}, None)['loss_queue'] for s, t in zip(students, teachers, strict=True)]
    torch.testing.assert_close(loss, sum(apart) / 2)
    (sum(apart) / 2).backward()
    torch.testing.assert_close(weight, made.aligns[0][0].weight.grad)


def weights(made):
    return made.aligns[0][0].weight[:, :, 0, 0]


def queue_of(teacher=(4, 4, 6), **options):
    made = set_up(QueueKL, [(3, 4, 6), teacher], **dict(dict(queue_size=5, monitor_interval=1), **options))
    made.state = RunState()
    return made


@pytest.mark.parametrize('init', ['empty', 'zeros'])
def test_steps_see_their_own_vectors_and_those_of_earlier_steps(init):
    made, queue = queue_of(queue_init=init), []
    for step in range(4):
        student, teacher = draw(2, 3, 4, 6, seed=step), draw(2, 4, 4, 6, seed=10 + step)
        made.state.iteration = step
        found = made({'tap': [student]}, {'tap': [teacher]}, None)
        s = F.normalize(F.conv2d(student, made.aligns[0][0].weight, made.aligns[0][0].bias).mean((2, 3)), dim=1)
        t = F.normalize(teacher.mean((2, 3)), dim=1)
        earlier, queue = torch.stack(queue) if queue else None, [*queue, *t][-5:]
        rows = torch.stack(queue + (5 - len(queue)) * [torch.zeros(4, dtype=DOUBLE)] * (init == 'zeros'))
        assert found['loss_queue'].item() == pytest.approx(queue_naive(s, t, rows, 0.07, 0.07), rel=1e-9)
        if init == 'empty':
            assert ('acc_top1' in found) == (step > 0)
        if earlier is not None:
            nearest = ((s * t).sum(1) >= (s @ earlier.t()).amax(1)).double().mean() * 100
            assert found['acc_top1'] == nearest or init == 'zeros'
    made.eval()
    state = made.state_dict()['parts.0.rows'].clone()
    made({'tap': [draw(2, 3, 4, 6)]}, {'tap': [draw(2, 4, 4, 6)]}, None)
    assert torch.equal(state, made.parts[0].rows), 'evaluation leaves the queue'


def test_padding_takes_no_part_in_vectors():
    made, student, teacher = queue_of(), draw(2, 3, 4, 6).requires_grad_(), draw(2, 4, 4, 6, seed=1)
    loss = made({'tap': [student]}, {'tap': [teacher]}, padded())['loss_queue']
    rows = [torch.stack([x[0].mean((1, 2)), x[1, :, :3, :2].mean((1, 2))]) for x in (student, teacher)]
    s, t = F.normalize(made.aligns[0](rows[0][:, :, None, None])[..., 0, 0], dim=1), F.normalize(rows[1], dim=1)
    assert loss.item() == pytest.approx(queue_naive(s, t, t, 0.07, 0.07), rel=1e-9)
    loss.backward()
    assert not student.grad[1, :, 3:].any() and not student.grad[1, :, :, 2:].any() and student.grad[1].any()


def test_a_broken_vector_does_not_enter():
    made, teacher = queue_of(), draw(2, 4, 4, 6)
    broken = torch.cat([teacher[:1] * float('nan'), teacher[1:]])
    for x in (teacher, broken, teacher):
        loss = made({'tap': [draw(2, 3, 4, 6)]}, {'tap': [x]}, None)['loss_queue']
    assert loss.isfinite() and made.parts[0].filled == 5 and made.parts[0].rows.isfinite().all()


def runner(images):
    said = []
    logger = SimpleNamespace(info=said.append, warning=said.append)
    loader = SimpleNamespace(dataset=range(images) if isinstance(images, int) else images)
    return SimpleNamespace(train_dataloader=loader, logger=logger), said


@pytest.mark.parametrize(('images', 'size'), [(40, 16), (51, 32), (1000, 256), (20_001, 8192), (10**6, 8192)])
def test_the_queue_by_the_number_of_pictures(images, size):
    made = queue_of(queue_size='auto')
    run, said = runner(images)
    made.prepare(run, None)
    assert made.parts[0].size == made.queue_size == size and f'{size} vectors' in said[0]
    again = queue_of(queue_size='auto')
    again.load_state_dict(made.state_dict())
    again.prepare(runner(30)[0], None)
    assert again.parts[0].size == size, 'a resumed run keeps it'


def test_a_long_queue_is_told():
    run, said = runner(1000)
    queue_of(queue_size=501).prepare(run, None)
    assert 'queue_size=501 is large for 1000 training pictures' in said[0]
    said.clear()
    queue_of(queue_size=500).prepare(run, None)
    assert not said


def test_the_queue_is_for_pictures_and_not_for_their_repetitions():
    repeated = RepeatDataset(ShapesSegDataset(num_images=20), 40)
    made, long = queue_of(queue_size='auto'), queue_of(queue_size=256)
    made.prepare(runner(repeated)[0], None)
    assert made.queue_size == 16
    run, said = runner(repeated)
    long.prepare(run, None)
    assert 'queue_size=256 is large for 20 training pictures' in said[0]


def test_taps_that_do_not_fit_queue_kl_are_named():
    with pytest.raises(ValueError, match=r'gives \(9, 4\) .* neither a map'):
        queue_of((9, 4))
    with pytest.raises(ValueError, match='head=None needs equal numbers'):
        queue_of(head=None)


def test_the_accuracy_is_a_mean_by_the_weights_of_the_taps():
    torch.manual_seed(0)
    made = QueueKL([('a', 3.0), 'b'], queue_size=8, head=None, monitor_interval=1)
    shapes = {name: [torch.Size((1, 4))] for name in 'ab'}
    made.setup(shapes, shapes)
    made.double()
    near, far = unit(2, 4), unit(2, 4, seed=1)
    made({'a': [near], 'b': [near]}, {'a': [far], 'b': [far]}, None)
    made.state.iteration = 1
    found = made({'a': [near], 'b': [far]}, {'a': [near], 'b': [-far]}, None)
    assert found['acc_top1'].item() == pytest.approx(100 * (3 * 1 + 1 * 0) / 4)
