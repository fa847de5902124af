"""Contrasts with queues: PCD, its queue, centre and heads, and the methods that compare one vector a picture."""

import copy
import math
import re
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from mmengine.dataset import RepeatDataset
from torch import nn

from mmdistill_dense.datasets import ShapesSegDataset
from mmdistill_dense.distillers import PCD, QueueKL, SimReg
from mmdistill_dense.distillers.base import RunState
from mmdistill_dense.distillers.cirkd import ClassQueue
from mmdistill_dense.distillers.feature_match import ChannelStatistics
from mmdistill_dense.distillers.pcd.modules import NegativeQueue, PixelAttention, choose_size
from mmdistill_dense.weights.ssl_layouts import LAYOUTS
from tests.distillers.steps import divergence, draw, run, set_up
from tools.benchmark import reference

WIDE_HEAD = dict(type='mlp2', hidden=32)


def _make(student=(4, 6, 3, 5), teacher=None, count=1, **options):
    """On the tap 'tap', its queue full unless said otherwise."""
    options = {'queue_size': 10, 'queue_init': 'random', 'head': None, **options}
    return set_up(PCD, *[(student[1:], (teacher or student)[1:])] * count, **options)


def _loss(distiller, students, teachers, samples=None):
    """Of some views."""
    return distiller({'tap': students}, {'tap': teachers}, samples)['loss_pcd']


def _plain(student, teacher, negatives, tau=0.2):
    """The loss of two whole maps."""
    rows = [F.normalize(x, dim=1).movedim(1, -1).flatten(0, 2) for x in (student, teacher)]
    return reference.pcd_info_nce(*rows, negatives, tau)


@pytest.mark.parametrize('pairing', [None, 'cross', 'same'])
def test_two_views_are_crossed(pairing):
    s1, s2, t1, t2 = (draw(4, 6, 3, 5, seed=seed) for seed in range(4))
    distiller = _make(view_pairing=pairing, temperature=0.07)
    queue = distiller.queue.rows.clone()
    pairs = [(s1, t1), (s2, t2)] if pairing == 'same' else [(s1, t2), (s2, t1)]
    expected = sum(_plain(s, t, queue, 0.07) for s, t in pairs) / 2
    torch.testing.assert_close(_loss(distiller, [s1, s2], [t1, t2]), expected)
    if pairing is None:
        distiller.queue.rows.copy_(queue)
        torch.testing.assert_close(_loss(distiller, [s1], [t1]), _plain(s1, t1, queue, 0.07))


def test_maps_of_different_size_are_brought_together():
    student, teacher = draw(2, 6, 6, 8), draw(2, 6, 3, 4, seed=1)
    larger = F.interpolate(teacher, (6, 8), mode='bilinear', align_corners=False)
    for resize, pair in (('teacher', (student, larger)), ('student', (F.avg_pool2d(student, 2), teacher))):
        distiller = _make(resize=resize)
        expected = _plain(*pair, distiller.queue.rows.clone())
        torch.testing.assert_close(_loss(distiller, [student], [teacher]), expected)


def test_wrong_numbers_of_views_are_named():
    maps, levels = [draw(2, 6, 3, 5)], [torch.Size((1, 6, 3, 5))]
    with pytest.raises(ValueError, match="view_pairing='cross' needs two views, the step has 1"):
        _loss(_make(view_pairing='cross'), maps, maps)
    with pytest.raises(ValueError, match="gives 2 tensors and teacher tap 'neck' 3; select the same number"):
        PCD('neck').setup({'neck': levels * 2}, {'neck': levels * 3})


def test_levels_have_parts_of_their_own():
    distiller = PCD([('a', 3.0), 'b'], queue_size=5, queue_init='random', head=WIDE_HEAD)
    maps = [{name: [draw(2, 6, side, side, seed=seed)] for name, side in (('a', 4), ('b', 2))} for seed in (0, 1)]
    distiller.setup(*({name: [x[:1].shape] for name, (x,) in side.items()} for side in maps))
    distiller.eval().double()
    losses = []
    for level, name in enumerate('ab'):
        head = nn.Sequential(distiller.projector[level], distiller.predictor[level])
        losses.append(_plain(head(maps[0][name][0]), maps[1][name][0], distiller.queue[level].rows))
    expected = (3 * losses[0] + losses[1]) / 2
    torch.testing.assert_close(distiller(*maps, None)['loss_pcd'], expected)
    names = {name.rsplit('.', 1)[0] for name in distiller.state_dict()}
    assert {'projector.0.0', 'projector.1.3', 'predictor.1.0', 'queue.0', 'queue.1'} < names


# Padding and sampled pixels


def _samples(shapes, batch, key='batch_input_shape'):
    return [SimpleNamespace(metainfo={'img_shape': shape, key: batch}) for shape in shapes]


def test_keys_are_of_valid_pixels():
    teacher = draw(2, 6, 4, 4)
    for enqueue, keys in (('pooled', 1), ('pixels', 3)):
        distiller = _make(queue_init='empty', enqueue=enqueue, keys_per_image=3)
        run(distiller, teacher, teacher, _samples([(32, 32), (3, 3)], (32, 32)))
        assert int(distiller.queue.filled) == keys, 'none of an image without a valid pixel'
    distiller = _make(queue_init='empty', enqueue='pixels', keys_per_image=4)
    run(distiller, teacher, teacher, _samples([(32, 32), (9, 9)], (32, 32)))
    pixels = F.normalize(teacher, dim=1)
    rows = distiller.queue.rows
    assert torch.allclose(rows[4:8], pixels[1, :, 0, 0])
    assert all(torch.isclose(row, pixels[0].flatten(1).T).all(1).any() for row in rows[:4])
    assert len({tuple(row) for row in rows[:4].tolist()}) > 1


def test_sampled_pixels_are_drawn_anew_in_each_iteration():
    student, teacher = draw(2, 6, 4, 5), draw(2, 6, 4, 5, seed=1)
    distiller = _make(num_pixels=7)
    queue = distiller.queue.rows.clone()
    drawn = []
    for iteration in (3, 3, 4):
        distiller.state.iteration = iteration
        distiller.queue.rows.copy_(queue)
        where = distiller.positions(20, 0)
        assert len(set(where.tolist())) == 7
        expected = _plain(student.flatten(2)[..., where, None], teacher.flatten(2)[..., where, None], queue)
        torch.testing.assert_close(_loss(distiller, [student], [teacher]), expected)
        drawn.append(where.tolist())
    assert drawn[0] == drawn[1] != drawn[2]
    assert distiller.positions(7, 0) is None
    torch.testing.assert_close(distiller.queue.rows[4:6], F.normalize(teacher.mean((2, 3)), dim=1))


# Queue, centre, monitor


def test_an_empty_queue_is_filled_after_the_loss():
    student, teacher = draw(4, 6, 3, 5).requires_grad_(), draw(4, 6, 3, 5, seed=1)
    distiller = _make(queue_init='empty')
    first = _loss(distiller, [student], [teacher])
    first.backward()
    assert first.item() == 0 and not student.grad.any()
    keys = F.normalize(teacher.mean((2, 3)), dim=1)
    torch.testing.assert_close(distiller.queue.negatives(), keys)
    torch.testing.assert_close(_loss(distiller, [student], [teacher]), _plain(student, teacher, keys))
    assert int(distiller.queue.filled) == 8


def test_center_subtracts_the_mean_of_the_steps_before():
    teacher = draw(4, 6, 3, 5, seed=1).abs()
    student = draw(4, 6, 3, 5)
    distiller = _make(center=True)
    queue = distiller.queue.rows.clone()
    torch.testing.assert_close(_loss(distiller, [student], [teacher]), _plain(student, teacher, queue))
    mean = 0.01 * teacher.mean((0, 2, 3))
    torch.testing.assert_close(distiller.center.mean, mean)
    queue = distiller.queue.rows.clone()
    centred = teacher - mean[:, None, None]
    torch.testing.assert_close(_loss(distiller, [student], [teacher]), _plain(student, centred, queue))
    torch.testing.assert_close(distiller.queue.rows[4:8], F.normalize(centred.mean((2, 3)), dim=1))
    torch.testing.assert_close(distiller.center.mean, 0.99 * mean + mean)


def test_the_monitor_looks_before_the_keys_enter():
    teacher = draw(4, 6, 3, 5)
    assert list(run(_make(monitor_interval=5), teacher, teacher)) == ['loss_pcd']
    for sign, top in ((1, 100), (-1, 0)):
        distiller = _make(monitor_interval=5, queue_size=100)
        distiller.state.iteration = 10
        terms = run(distiller, sign * teacher, teacher)
        assert {name: float(terms[name]) for name in terms if 'loss' not in name} == dict(acc_top1=top, acc_top5=top)
    empty = _make(queue_init='empty', monitor_interval=1)
    assert list(run(empty, teacher, teacher)) == ['loss_pcd']
    assert len(run(empty, teacher, teacher)) == 3


def _prepare(distiller, images):
    """What it logs for a run on so many pictures, in batches of 4."""
    out = []
    dataset = range(images) if isinstance(images, int) else images
    loader = SimpleNamespace(dataset=dataset, batch_sampler=SimpleNamespace(batch_size=4))
    logger = SimpleNamespace(info=out.append, warning=out.append)
    distiller.prepare(SimpleNamespace(logger=logger, train_dataloader=loader), None)
    return out


REPEATED = RepeatDataset(ShapesSegDataset(num_images=21), 40)  # by its length each picture would be there many times


@pytest.mark.parametrize(('options', 'images', 'words'), [
    ({}, 25, []),
    (dict(queue_init='empty'), 25, ['holds 0 of 10 keys']),
    ({}, 9, ['queue_size=10 is large for 9 training pictures with 1 keys each.* of all keys, 3, or']),
    (dict(enqueue='pixels', keys_per_image=3), 6, ['large for 6 training pictures with 3 keys each.* all keys, 6, or']),
    (dict(enqueue='pixels', keys_per_image=3), 7, []),
    (dict(queue_size=11), REPEATED, ['queue_size=11 is large for 21']),
    (dict(queue_size='auto'), REPEATED, ['448 keys, 64 of each']),
])  # fmt: skip
def test_an_empty_queue_is_told(options, images, words):
    out = _prepare(_make(**options), images)
    assert len(out) == len(words) and all(re.search(word, line) for word, line in zip(words, out, strict=True))


@pytest.mark.parametrize(('images', 'per_step', 'rows', 'keys'), [
    (46, 4, 960, 64),  # the CamVid subset, where 15 pictures of 64 keys were set by hand
    (5000, 1, 256, 64),  # four steps of one picture
    (5000, 8, 1024, 32),
    (118287, 256, 1024, 4),  # 1024 pictures would give one key each
])  # fmt: skip
def test_a_size_by_the_data(images, per_step, rows, keys):
    assert choose_size(images, per_step, 'model.distillers.pcd') == (rows, keys)


def test_a_size_by_the_data_counts_all_processes(monkeypatch):
    words = r"^distillers.pcd.queue_size='auto' needs 12 training pictures or more, found 11"
    for call in (_make(queue_size='auto').check_data, lambda images: _prepare(_make(queue_size='auto'), images)):
        with pytest.raises(ValueError, match=words):
            call(11)
    _make(queue_size='auto').check_data(12)
    _make(queue_size=64).check_data(1)
    resumed = _make(queue_size='auto')
    resumed.chosen_size[:] = 256
    resumed.check_data(11)
    monkeypatch.setattr('mmdistill_dense.distillers.pcd.pcd.world_size', lambda: 3)
    _prepare(distiller := _make(queue_size='auto'), 5000)
    assert (distiller.queue_size, distiller.keys_per_image) == (1008, 21)  # 4 steps of 12 pictures


def test_auto_bounds_the_ring():
    """Twelve pictures: 256 rows of the 1024; a resumed run keeps them whatever its data are."""
    distiller, resumed = (_make(queue_size='auto', queue_init='empty') for _ in range(2))
    assert distiller.queue.rows.shape[0] == 1024 and distiller.enqueue == 'pixels'
    first, second = _prepare(distiller, 12)
    assert "queue_size='auto': 256 keys, 64 of each picture" in first and 'holds 0 of 256 keys' in second
    before = distiller.queue.rows[256:].clone()
    for number in range(1, 4):  # 3 x 2 x 64 keys
        maps = [draw(2, 6, 8, 8, seed=number)]
        _loss(distiller, maps, maps)
        assert len(distiller.queue.negatives()) == min(128 * number, 256)
    assert int(distiller.queue.ptr) == 3 * 128 - 256 and torch.equal(distiller.queue.rows[256:], before)
    resumed.load_state_dict(distiller.state_dict())
    (line,) = _prepare(resumed, 5000)
    assert '256 keys' in line and resumed.keys_per_image == 64 and resumed.queue.size == 256
    assert torch.equal(resumed.queue.negatives(), distiller.queue.negatives())


# Heads and parts


@pytest.mark.parametrize(('options', 'channels', 'width', 'parameters', 'layout'), [
    ({}, 512, 256, 5_259_264, 'mocov3'),  # without options, that of the teacher's layout
    (dict(hidden=4096, bias='hidden'), 960, 256, 7_102_464, None),
    (dict(hidden=2048, bias=True), 960, 128, 2_765_056, None),
    (dict(hidden=8192, layers=3), 960, 8192, 343_474_176, None),
    ({}, 512, 256, 5_267_456, 'byol'),
    ({}, 512, 128, 1_847_552, 'swav'),
    (dict(layers=3), 512, 8192, 339_804_160, 'barlowtwins'),
])  # fmt: skip
def test_heads_have_the_published_numbers_of_parameters(options, channels, width, parameters, layout):
    distiller = PCD('tap', head=dict(type='mlp2', **options), queue_size=1)
    distiller.teacher = SimpleNamespace(config=SimpleNamespace(model=dict(layout=layout)))
    assert layout is None or LAYOUTS[layout].widths[-1] == width
    with torch.device('meta'):
        distiller.setup({'tap': [torch.Size((1, channels, 7, 7))]}, {'tap': [torch.Size((1, width, 7, 7))]})
    assert sum(parameter.numel() for parameter in distiller.parameters()) == parameters


def test_attention_runs_under_autocast():
    attention = PixelAttention(16, 4)
    nn.init.normal_(attention.gamma)
    with torch.autocast('cpu', torch.bfloat16):
        assert attention(torch.randn(1, 16, 3, 5)).isfinite().all()
    with pytest.warns(UserWarning, match='computes attention over 65 x 64 = 4160 pixels'):
        attention.to('meta')(torch.empty(1, 16, 65, 64, device='meta'))


@pytest.mark.parametrize(
    'dtype', [NegativeQueue(8, 3, 'random'), ClassQueue(2, 4, 3), ChannelStatistics(3, 5)], ids=type
)
def test_buffers_stay_in_float32_when_the_model_is_halved(dtype):
    exact = {name: value.clone() for name, value in dtype.named_buffers()}
    for half in (torch.float16, torch.bfloat16):
        assert all(torch.equal(value, exact[name]) for name, value in copy.deepcopy(dtype).to(half).named_buffers())
    double = copy.deepcopy(dtype).double()
    assert {value.dtype for value in double.buffers() if value.is_floating_point()} == {torch.float64}


# One vector a picture: QueueKL and SimReg


def queue_of(teacher=(4, 4, 6), **options):
    made = set_up(QueueKL, [(3, 4, 6), teacher], **dict(dict(queue_size=5, monitor_interval=1), **options))
    made.state = RunState()
    return made


@pytest.mark.parametrize(('init', 'own_key'), [('empty', False), ('zeros', False), ('empty', True)])
def test_pictures_are_compared_with_those_of_their_step(init, own_key):
    """Or with themselves and earlier ones (SEED); the gradient is that of the cross-entropy."""
    made = queue_of(temperature=0.05, student_temperature=0.2, queue_init=init, own_key=own_key)
    earlier = torch.zeros(0, 4, dtype=torch.float64)
    for step in range(4):
        student, teacher = draw(2, 3, 4, 6, seed=step).requires_grad_(), draw(2, 4, 4, 6, seed=10 + step)
        made.state.iteration = step
        actual = run(made, student, teacher)
        s = F.normalize(F.conv2d(student, made.aligns[0][0].weight, made.aligns[0][0].bias).mean((2, 3)), dim=1)
        t = F.normalize(teacher.mean((2, 3)), dim=1)
        rows = torch.cat([earlier, t])[-5:]
        blank = torch.zeros((5 - len(rows)) * (init == 'zeros'), 4, dtype=torch.float64)
        keys = [torch.cat([b[None], earlier]) if own_key else torch.cat([rows, blank]) for b in t]
        each = [divergence((k @ a).tolist(), (k @ b).tolist(), 0.05, 0.2) for a, b, k in zip(s, t, keys, strict=True)]
        assert actual['loss_queue'].item() == pytest.approx(sum(each) / 2, rel=1e-8)
        entropy = [F.cross_entropy((a @ k.t() / 0.2)[None], (b @ k.t() / 0.05).softmax(0)[None])
                   for a, b, k in zip(s, t, keys, strict=True)]  # fmt: skip
        losses = actual['loss_queue'], sum(entropy) / 2
        torch.testing.assert_close(*(torch.autograd.grad(loss, student, retain_graph=True)[0] for loss in losses))
        if init == 'empty':
            assert ('acc_top1' in actual) == (step > 0) and int(made.parts[0].filled) == len(rows)
        if step and init == 'empty':
            nearest = ((s * t).sum(1) >= (s @ earlier.t()).amax(1)).double().mean() * 100
            assert actual['acc_top1'] == nearest
        earlier = rows


@pytest.mark.parametrize('own_key', [False, True])
def test_two_views_enter_one_after_the_other_or_behind_the_step(own_key):
    made = queue_of(own_key=own_key)
    views = [[draw(2, c, 4, 6, seed=seed) for seed in (c, c + 9)] for c in (3, 4)]
    for made.state.iteration in range(3):
        step, before = made.state.iteration, copy.deepcopy(made)
        actual, apart = made({'tap': views[0]}, {'tap': views[1]}, None), []
        loss = actual['loss_queue']
        if step:  # the accuracy is of the first view against earlier steps
            first, second = (run(copy.deepcopy(before), *pair)['acc_top1'] for pair in zip(*views, strict=True))
            assert actual['acc_top1'] == first != second
        for student, teacher in zip(*views, strict=True):
            model = copy.deepcopy(before) if own_key else before
            apart.append(run(model, student, teacher)['loss_queue'])
        torch.testing.assert_close(loss, sum(apart) / 2)
        assert made.parts[0].filled == min(4 * (step + 1), 5) and (loss > 0 or (own_key and not step))


@pytest.mark.parametrize(
    ('images', 'size'),
    [(40, 16), (51, 32), (1000, 256), (20_000, 4096), (20_001, 8192),
     (REPEATED, 16)],
)  # fmt: skip
def test_the_queue_by_the_number_of_different_pictures(images, size):
    made, again = queue_of(queue_size='auto'), queue_of(queue_size='auto')
    assert f'{size} vectors' in _prepare(made, images)[0]
    assert made.parts[0].size == made.queue_size == size
    again.load_state_dict(made.state_dict())
    _prepare(again, 30)
    assert again.parts[0].size == size, 'a resumed run keeps it'
    assert 'queue_size=501 is large for 1000 training pictures' in _prepare(queue_of(queue_size=501), 1000)[0]
    assert not _prepare(queue_of(queue_size=500), 1000)


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
