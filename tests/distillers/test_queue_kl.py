"""QueueKL against its formula; its queue over steps, and vectors of maps."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from mmdistill_dense.distillers import QueueKL
from tests.distillers.case import DistillerCase

DOUBLE = torch.float64


class TestQueueKL(DistillerCase):
    rounding = 0.02
    option = dict(type='QueueKL', queue_size=16, queue_init='random')

    def total(self, distiller, student, teacher):
        """Without what the step adds to the queue, which the next step would see."""
        rows = {name: value.clone() for name, value in distiller.state_dict().items()}
        found = super().total(distiller, student, teacher)
        if 'parts.0.rows' in rows:
            distiller.parts[0].load_state_dict({name: rows[f'parts.0.{name}'] for name in ('rows', 'ptr', 'filled')})
        return found


class TestSEED(TestQueueKL):
    option = dict(
        TestQueueKL.option,
        temperature=0.01,
        student_temperature=0.2,
        head=dict(type='mlp', hidden=32),
        queue_init='zeros',
        monitor_interval=0,
    )
    teacher = (2, 128)  # a vector


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def unit(*shape, seed=0):
    return F.normalize(draw(*shape, seed=seed), dim=-1)


def naive(student, teacher, queue, t, s):
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
    made, student, teacher = distiller(temperature=0.05, student_temperature=0.2), draw(3, 3), draw(3, 4, seed=1)
    student.requires_grad_()
    maps = student[:, :, None, None].expand(3, 3, 4, 6), teacher[:, :, None, None].expand(3, 4, 4, 6)
    loss = made({'tap': [maps[0]]}, {'tap': [maps[1]]}, None)['loss_queue']
    s, t = F.normalize(student @ weights(made).t() + made.aligns[0][0].bias, dim=1), F.normalize(teacher, dim=1)
    assert loss.item() == pytest.approx(naive(s, t, t, 0.05, 0.2), rel=1e-9)
    entropy = F.cross_entropy(s @ t.t() / 0.2, (t @ t.t() / 0.05).softmax(1))
    torch.testing.assert_close(*(torch.autograd.grad(one, student)[0] for one in (loss, entropy)))


def test_gradcheck():
    made, teacher = distiller().eval(), draw(2, 4, 4, 6, seed=1)
    made.parts[0].enqueue(unit(5, 4, seed=2))
    student = draw(2, 3, 4, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: made({'tap': [x]}, {'tap': [teacher]}, None)['loss_queue'], student)


def test_two_views_enter_one_after_the_other():
    made = distiller()
    students, teachers = ([draw(2, c, 4, 6, seed=seed) for seed in (c, c + 9)] for c in (3, 4))
    loss = made({'tap': students}, {'tap': teachers}, None)['loss_queue']
    loss.backward()
    weight, made = made.aligns[0][0].weight.grad, distiller()
    apart = [made({'tap': [s]}, {'tap': [t]}, None)['loss_queue'] for s, t in zip(students, teachers, strict=True)]
    torch.testing.assert_close(loss, sum(apart) / 2)
    (sum(apart) / 2).backward()
    torch.testing.assert_close(weight, made.aligns[0][0].weight.grad)


def weights(made):
    return made.aligns[0][0].weight[:, :, 0, 0]


def distiller(teacher=(4, 4, 6), **options):
    torch.manual_seed(0)
    made = QueueKL('tap', **dict(dict(queue_size=5, monitor_interval=1), **options))
    made.setup({'tap': [torch.Size((1, 3, 4, 6))]}, {'tap': [torch.Size((1, *teacher))]})
    return made.double()


def samples():
    shapes = (32, 48), (24, 16)
    return [SimpleNamespace(metainfo=dict(img_shape=shape, batch_input_shape=(32, 48))) for shape in shapes]


@pytest.mark.parametrize('init', ['empty', 'zeros'])
def test_steps_see_their_own_vectors_and_those_of_earlier_steps(init):
    made, queue = distiller(queue_init=init), []
    for step in range(4):
        student, teacher = draw(2, 3, 4, 6, seed=step), draw(2, 4, 4, 6, seed=10 + step)
        made.state.iteration = step
        found = made({'tap': [student]}, {'tap': [teacher]}, None)
        s = F.normalize(F.conv2d(student, made.aligns[0][0].weight, made.aligns[0][0].bias).mean((2, 3)), dim=1)
        t = F.normalize(teacher.mean((2, 3)), dim=1)
        earlier, queue = torch.stack(queue) if queue else None, [*queue, *t][-5:]
        rows = torch.stack(queue + (5 - len(queue)) * [torch.zeros(4, dtype=DOUBLE)] * (init == 'zeros'))
        assert found['loss_queue'].item() == pytest.approx(naive(s, t, rows, 0.07, 0.07), rel=1e-9)
        if init == 'empty':
            assert ('acc_top1' in found) == (step > 0)
        if earlier is not None:
            nearest = ((s * t).sum(1) >= (s @ earlier.t()).amax(1)).double().mean() * 100
            assert found['acc_top1'] == nearest or init == 'zeros'
    made.eval()
    state = made.state_dict()['parts.0.rows'].clone()
    made({'tap': [draw(2, 3, 4, 6)]}, {'tap': [draw(2, 4, 4, 6)]}, None)
    assert torch.equal(state, made.parts[0].rows), 'evaluation leaves the queue'


def test_a_vector_is_taken_as_it_is():
    student, teacher = draw(2, 3, 4, 6), draw(2, 4, 4, 6, seed=1)
    losses = [distiller(shape)({'tap': [student]}, {'tap': [t]}, None)['loss_queue']
              for shape, t in (((4, 4, 6), teacher), ((4,), 3 * teacher.mean((2, 3))))]  # fmt: skip
    torch.testing.assert_close(*losses)


def test_padding_takes_no_part():
    made, student, teacher = distiller(), draw(2, 3, 4, 6).requires_grad_(), draw(2, 4, 4, 6, seed=1)
    loss = made({'tap': [student]}, {'tap': [teacher]}, samples())['loss_queue']
    rows = [torch.stack([x[0].mean((1, 2)), x[1, :, :3, :2].mean((1, 2))]) for x in (student, teacher)]
    s, t = F.normalize(made.aligns[0](rows[0][:, :, None, None])[..., 0, 0], dim=1), F.normalize(rows[1], dim=1)
    assert loss.item() == pytest.approx(naive(s, t, t, 0.07, 0.07), rel=1e-9)
    loss.backward()
    assert not student.grad[1, :, 3:].any() and not student.grad[1, :, :, 2:].any() and student.grad[1].any()


def test_the_queue_of_a_checkpoint_goes_on():
    first, second = distiller(), distiller()
    maps = [(draw(2, 3, 4, 6, seed=step), draw(2, 4, 4, 6, seed=9 + step)) for step in range(4)]

    def steps(made, some):
        return torch.stack([made({'tap': [s]}, {'tap': [t]}, None)['loss_queue'] for s, t in some])

    steps(first, maps[:2])
    steps(second, maps[3:])
    second.load_state_dict(first.state_dict())
    assert torch.equal(steps(first, maps[2:]), steps(second, maps[2:]))


def test_a_broken_vector_does_not_enter():
    made, teacher = distiller(), draw(2, 4, 4, 6)
    broken = torch.cat([teacher[:1] * float('nan'), teacher[1:]])
    for x in (teacher, broken, teacher):
        loss = made({'tap': [draw(2, 3, 4, 6)]}, {'tap': [x]}, None)['loss_queue']
    assert loss.isfinite() and made.parts[0].filled == 5 and made.parts[0].rows.isfinite().all()


def runner(images):
    said = []
    logger = SimpleNamespace(info=said.append, warning=said.append)
    dataset = SimpleNamespace(dataset=range(images))
    return SimpleNamespace(train_dataloader=dataset, logger=logger), said


@pytest.mark.parametrize(('images', 'size'), [(40, 16), (51, 32), (1000, 256), (20_001, 8192), (10**6, 8192)])
def test_the_queue_by_the_number_of_pictures(images, size):
    made = distiller(queue_size='auto')
    run, said = runner(images)
    made.prepare(run, None)
    assert made.parts[0].size == made.queue_size == size and f'{size} vectors' in said[0]
    again = distiller(queue_size='auto')
    again.load_state_dict(made.state_dict())
    again.prepare(runner(30)[0], None)
    assert again.parts[0].size == size, 'a resumed run keeps it'


def test_a_long_queue_is_told():
    run, said = runner(1000)
    distiller(queue_size=501).prepare(run, None)
    assert 'queue_size=501 is large for 1000 training pictures' in said[0]
    said.clear()
    distiller(queue_size=500).prepare(run, None)
    assert not said


def test_wrong_options_and_taps_are_named():
    for options, words in [
        (dict(queue_init='ones'), "queue_init must be one of 'empty', 'random', 'zeros'"),
        (dict(queue_size=0), 'queue_size must be a whole number >= 1'),
        (dict(student_temperature=-1.0), 'student_temperature must be > 0'),
        (dict(head=dict(type='conv')), 'head.type must be one of'),
    ]:
        with pytest.raises(ValueError, match=words):
            QueueKL(**options)
    with pytest.raises(ValueError, match=r'gives \(9, 4\) .* neither a map'):
        distiller((9, 4))
    with pytest.raises(ValueError, match='head=None needs equal numbers'):
        distiller(head=None)


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
