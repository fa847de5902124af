"""KD-DETR: its formula, the decoders of real detectors asked again, and what it refuses."""

import math

import pytest
import torch

from mmdistill_dense.distillers import KDDETR
from mmdistill_dense.losses import query_terms
from mmdistill_dense.networks.recording import Replay
from mmdistill_dense.networks.taps import DECODER
from tests import toys
from tests.distillers.steps import divergence, overlaps, trained_children
from tests.distillers.steps_on_heads import query_answers
from tests.query_nets import CONFIGS, query_model


def naive(own_scores, own_boxes, scores, boxes, temperature, mean):
    weights, terms = 0.0, [0.0, 0.0, 0.0]
    for layer in range(len(own_scores)):
        for b in range(len(scores)):
            for m in range(scores.shape[1]):
                weight = max(1 / (1 + math.exp(-z)) for z in scores[b, m].tolist())
                weights += weight if not layer else 0
                kl = divergence(own_scores[layer, b, m].tolist(), scores[b, m].tolist(), temperature)
                terms[0] += weight * temperature**2 * kl / scores.shape[2]
                s, t = own_boxes[layer, b, m].tolist(), boxes[b, m].tolist()
                terms[1] += weight * sum(abs(one - other) for one, other in zip(s, t, strict=True)) / 4
                corners = ((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2) for cx, cy, w, h in (s, t))
                inner, union, hull = overlaps(*corners)
                terms[2] += weight * (1 - inner / union + (hull - union) / hull)
    return [terms[0] / weights if mean else terms[0], terms[1] / weights, terms[2] / weights]


@pytest.mark.parametrize('mean', [False, True])
def test_the_naive_formula(mean):
    words = query_answers()
    teacher = [x[None] for x in words[2:]]
    last = KDDETR().terms([x[-1:] for x in words[:2]], teacher)
    assert torch.equal(KDDETR(layers='last').terms(words[:2], teacher), last)
    actual = query_terms(*words, temperature=3.0, mean=mean)
    assert actual.tolist() == pytest.approx(naive(*words, 3.0, mean), rel=1e-12)
    scores, boxes, *teacher = query_answers(layers=2, queries=3)
    leaves = (scores.clone().requires_grad_(), boxes.clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda *x: query_terms(*x, *teacher, mean=mean), leaves)


def test_equal_answers_cost_nothing():
    _, _, scores, boxes = query_answers()
    assert query_terms(scores[None], boxes[None], scores, boxes).abs().max() < 1e-12
    half = [x.bfloat16() for x in query_answers()]
    with torch.autocast('cpu', torch.bfloat16):
        actual = query_terms(*half)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, query_terms(*(x.float() for x in half)))
    for part in range(4):
        words = [x * math.nan if number == part else x for number, x in enumerate(query_answers())]
        assert not query_terms(*words).isfinite().all(), 'what is no number shows'


def built(kind, option=None, **student):
    model = query_model(kind, option, **student)
    made = toys.distilled('mmdet', **{name: model[name] for name in ('student', 'teacher', 'distillers')})
    toys.teacher_of(made).network.apply(_shake)  # new detectors predict the places of their queries
    return made


def _shake(module):
    if isinstance(module, torch.nn.Linear):
        with torch.no_grad():
            module.bias += 0.3 * torch.randn(module.bias.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    'kind', [one if one == 'dab' else pytest.param(one, marks=pytest.mark.soak) for one in CONFIGS]
)
def test_a_step_of_a_real_detector_trains_it_by_queries(kind):
    model = built(kind)
    losses = toys.losses_of(model, toys.det_batch())
    own = {name: value for name, value in losses.items() if name.startswith('distill.x.loss_')}
    assert set(own) == {f'distill.x.loss_{name}' for name in ('class', 'box', 'giou')} and all(map(float, own.values()))
    toys.total(own).backward()
    assert {'backbone', 'encoder', 'decoder', 'bbox_head'} <= trained_children(model)
    teacher = toys.teacher_of(model).network
    assert not any(p.grad is not None for p in teacher.parameters())
    for network in (model, teacher):
        assert DECODER not in vars(network) and not toys.hooks_left(network)


@pytest.mark.parametrize('kind', ['dab', 'dino'])
def test_the_decoder_asked_for_its_own_queries_answers_the_same(kind):
    model = built(kind)
    teacher = toys.teacher_of(model)
    data = model.data_preprocessor(toys.det_batch(), True)
    seen = []
    own = teacher.network.pre_transformer
    teacher.network.pre_transformer = lambda maps, samples: seen.extend(samples) or own(maps, samples)
    recorded = teacher(data['inputs'], samples=data['data_samples'])
    assert len(seen) == 2 and not any(list(sample.keys()) for sample in seen), 'no label reaches the teacher'
    assert all('batch_input_shape' in sample.metainfo for sample in seen)
    replay = recorded[DECODER]
    with torch.no_grad():
        again = replay.answer(list(replay))
    for one, name in zip(again, ('bbox_head[0]', 'bbox_head[1]'), strict=True):
        assert torch.equal(one, recorded[name][0])
    queries = model.distillers['x'].random_queries(replay)
    assert all(len(one) == 2 and one.shape[1:] == (5, own.shape[-1]) for one, own in zip(queries, replay, strict=True))
    assert kind == 'dab' or 0 < queries[-1].min() < queries[-1].max() < 1
    model.distillation.state.iteration += 1
    others = model.distillers['x'].random_queries(replay)
    assert not all(torch.equal(*pair) for pair in zip(queries, others, strict=True)), 'each step draws its own'


def test_decoders_of_other_queries_or_widths_are_refused():
    narrow, wide = ({DECODER: [torch.Size((1, 9, width)), torch.Size((1, 9, 4))]} for width in (16, 32))
    with pytest.raises(ValueError, match=r'student have \[\(16,\), \(4,\)\] channels .* teacher \[\(32,\), \(4,\)\]'):
        KDDETR().setup(narrow, wide)
    narrow, wide = (Replay(torch.nn.Identity(), {name: torch.zeros(1, 2, 4)}) for name in ('query', 'query_pos'))
    with pytest.raises(ValueError, match='student gets query and that of the teacher query_pos'):
        KDDETR()({DECODER: narrow}, {DECODER: wide}, [])
