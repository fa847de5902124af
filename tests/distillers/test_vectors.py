"""Methods that compare one vector a picture: QueueKL and SimReg against their formulas, and the queue's size."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from mmengine.dataset import RepeatDataset

from mmdistill_dense.datasets import ShapesSegDataset
from mmdistill_dense.distillers import QueueKL, SimReg
from mmdistill_dense.distillers.base import RunState
from tests.distillers.steps import divergence, draw, set_up


def queue_of(teacher=(4, 4, 6), **options):
    made = set_up(QueueKL, [(3, 4, 6), teacher], **dict(dict(queue_size=5, monitor_interval=1), **options))
    made.state = RunState()
    return made


def run(made, student, teacher):
    return made({'tap': [student]}, {'tap': [teacher]}, None)


@pytest.mark.parametrize(('init', 'own_key'), [('empty', False), ('zeros', False), ('empty', True)])
def test_pictures_are_compared_with_those_of_their_step_and_of_earlier_ones(init, own_key):
    """Or with themselves and earlier ones (SEED); the gradient is that of the cross-entropy."""
    made = queue_of(temperature=0.05, student_temperature=0.2, queue_init=init, own_key=own_key)
    earlier = torch.zeros(0, 4, dtype=torch.float64)
    for step in range(4):
        student, teacher = draw(2, 3, 4, 6, seed=step).requires_grad_(), draw(2, 4, 4, 6, seed=10 + step)
        made.state.iteration = step
        found = run(made, student, teacher)
        s = F.normalize(F.conv2d(student, made.aligns[0][0].weight, made.aligns[0][0].bias).mean((2, 3)), dim=1)
        t = F.normalize(teacher.mean((2, 3)), dim=1)
        held = torch.cat([earlier, t])[-5:]
        blank = torch.zeros((5 - len(held)) * (init == 'zeros'), 4, dtype=torch.float64)
        keys = [torch.cat([b[None], earlier]) if own_key else torch.cat([held, blank]) for b in t]
        each = [divergence((k @ a).tolist(), (k @ b).tolist(), 0.05, 0.2) for a, b, k in zip(s, t, keys, strict=True)]
        assert found['loss_queue'].item() == pytest.approx(sum(each) / 2, rel=1e-8)
        entropy = [F.cross_entropy((a @ k.t() / 0.2)[None], (b @ k.t() / 0.05).softmax(0)[None])
                   for a, b, k in zip(s, t, keys, strict=True)]  # fmt: skip
        losses = found['loss_queue'], sum(entropy) / 2
        torch.testing.assert_close(*(torch.autograd.grad(one, student, retain_graph=True)[0] for one in losses))
        if init == 'empty':
            assert ('acc_top1' in found) == (step > 0) and int(made.parts[0].filled) == len(held)
        if step and init == 'empty':
            nearest = ((s * t).sum(1) >= (s @ earlier.t()).amax(1)).double().mean() * 100
            assert found['acc_top1'] == nearest
        earlier = held


@pytest.mark.parametrize('own_key', [False, True])
def test_two_views_enter_one_after_the_other_or_behind_the_step(own_key):
    made = queue_of(own_key=own_key)
    views = [[draw(2, c, 4, 6, seed=seed) for seed in (c, c + 9)] for c in (3, 4)]
    for step in range(2):
        made.state.iteration, before = step, copy.deepcopy(made)
        loss = made({'tap': views[0]}, {'tap': views[1]}, None)['loss_queue']
        apart = []
        for student, teacher in zip(*views, strict=True):
            one = copy.deepcopy(before) if own_key else before
            apart.append(run(one, student, teacher)['loss_queue'])
        torch.testing.assert_close(loss, sum(apart) / 2)
        assert made.parts[0].filled == min(4 * (step + 1), 5) and (loss > 0 or (own_key and not step))


def test_the_accuracy_is_of_the_first_view_against_earlier_steps(monkeypatch):
    made = queue_of()
    run(made, draw(2, 3, 4, 6, seed=1), draw(2, 4, 4, 6, seed=2))
    ranks = [torch.tensor([0, 0]), torch.tensor([5, 5])]
    monkeypatch.setattr('mmdistill_dense.losses.key_ranks', lambda *_: ranks.pop(0))
    for made.state.iteration in (1, 2):
        ranks[:] = [torch.tensor([0, 0]), torch.tensor([5, 5])]
        views = [[draw(2, c, 4, 6, seed=seed) for seed in (c, c + 9)] for c in (3, 4)]
        assert made({'tap': views[0]}, {'tap': views[1]}, None)['acc_top1'] == 100


def prepared(made, images):
    """What it logs for a run on so many pictures."""
    said = []
    logger = SimpleNamespace(info=said.append, warning=said.append)
    loader = SimpleNamespace(dataset=range(images) if isinstance(images, int) else images)
    made.prepare(SimpleNamespace(train_dataloader=loader, logger=logger), None)
    return said


@pytest.mark.parametrize(
    ('images', 'size'),
    [(40, 16), (51, 32), (1000, 256), (20_000, 4096), (20_001, 8192),
     (RepeatDataset(ShapesSegDataset(num_images=20), 40), 16)],
)  # fmt: skip
def test_the_queue_by_the_number_of_pictures_without_their_repetitions(images, size):
    made, again = queue_of(queue_size='auto'), queue_of(queue_size='auto')
    assert f'{size} vectors' in prepared(made, images)[0]
    assert made.parts[0].size == made.queue_size == size
    again.load_state_dict(made.state_dict())
    prepared(again, 30)
    assert again.parts[0].size == size, 'a resumed run keeps it'


def test_a_long_queue_is_told():
    assert 'queue_size=501 is large for 1000 training pictures' in prepared(queue_of(queue_size=501), 1000)[0]
    assert not prepared(queue_of(queue_size=500), 1000)


def test_simreg_is_the_angle_to_the_mean_of_the_teachers_map():
    made = set_up(SimReg, [(3, 4, 6), (5, 2, 2)], head=dict(type='mlp4', hidden=7, bias=True))
    shapes = [tuple(one.weight.shape[:2]) for one in made.aligns[0].modules() if isinstance(one, torch.nn.Conv2d)]
    assert shapes == [(7, 3), (3, 7), (7, 3), (5, 7)] and made.aligns[0][1][3].bias is not None
    student, teacher = draw(4, 3, 4, 6), draw(4, 5, 2, 2, seed=1)
    rows = made.aligns[0](student.mean((2, 3), keepdim=True))[..., 0, 0].tolist()
    total = 0.0
    for s, t in zip(rows, teacher.mean((2, 3)).tolist(), strict=True):
        total += 2 - 2 * sum(a * b for a, b in zip(s, t, strict=True)) / math.hypot(*s) / math.hypot(*t)
    assert run(made, student, teacher)['loss_simreg'].item() == pytest.approx(total / 4, rel=1e-9)
