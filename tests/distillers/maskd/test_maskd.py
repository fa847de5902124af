"""MasKD and FreeKD: formulas, when student masks begin, which tokens a level uses, the gated teacher, real networks."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdistill_dense import losses
from mmdistill_dense.distillers import FreeKD, MasKD, feature
from mmdistill_dense.distillers.freekd import band_gate
from mmdistill_dense.distillers.maskd import learning
from mmdistill_dense.losses import mask_dice
from mmdistill_dense.networks.taps import Tap
from tests import toys
from tests.distillers.maskd.tokens import NECK, random_tokens
from tests.distillers.steps import draw, set_up
from tools.benchmark import reference

SIZES = [(9, 12), (5, 6), (1, 3)]


def make(sizes=SIZES, iteration=0, **options):
    """A distiller with tokens for levels of these sizes, or pairs of sizes."""
    pairs = [size if isinstance(size[0], tuple) else (size, size) for size in sizes]
    made = set_up(MasKD, *[((6, *size_a), (8, *other)) for size_a, other in pairs], tap='neck', num_tokens=3, **options)
    made.state.iteration = iteration
    return made


def maps(channels, sizes=SIZES, tap='neck'):
    return {tap: [draw(2, channels, *size, seed=channels).requires_grad_() for size in sizes]}


def naive(distiller, level, student, teacher, student_mask=False):
    """The released form of the aligned map."""
    slot, options = distiller.mask_modules[level], dict(eps=distiller.eps, factor=distiller.factor)
    branch = slot.branch() if distiller.weight_mask else None
    aligned = distiller.aligns[level](student)
    return reference.maskd_loss(aligned, teacher, slot.mask_token, branch, student_mask=student_mask, **options)


@pytest.mark.parametrize(
    'options',
    [dict(), dict(student_mask_from=0), dict(weight_mask=False, factor=0.5, eps=1e-5), dict(loss_weight=7.0)],
    ids=['detection', 'student masks', 'segmentation', 'weighted'],
)
def test_equals_the_formula(options):
    distiller = make(**options)
    student, teacher = maps(6), maps(8)
    pairs = zip(student['neck'], teacher['neck'], strict=True)
    each = [naive(distiller, i, s, t, 'student_mask_from' in options) for i, (s, t) in enumerate(pairs)]
    terms = distiller.step(student, teacher, None)
    torch.testing.assert_close(terms.pop('loss_maskd'), distiller.loss_weight * sum(each))
    torch.testing.assert_close(terms, {f'level{i}': value for i, value in enumerate(each)})


def test_the_students_masks_begin_with_their_iteration():
    student, teacher = maps(6), maps(8)

    def value(iteration, since):
        return make(student_mask_from=since, iteration=iteration)(student, teacher, None)['loss_maskd'].item()

    never, always = value(0, None), value(0, 0)
    assert never != always
    assert [value(k, 5) for k in (4, 5, 6)] == [never, always, always]


def test_shared_tokens_serve_every_tap():
    options = dict(num_tokens=3, weight_mask=False, align='none')
    shared = MasKD(['main', ('auxiliary', 0.4)], share_tokens=True, **options)
    shapes = {tap: [torch.Size((1, 8, 6, 6))] for tap in ('main', 'auxiliary')}
    shared.setup(shapes, shapes)
    shared.double().load_tokens(random_tokens(shared))
    assert sorted(shared.token_shapes()) == ['0.mask_token']
    wide = {tap: [torch.Size((1, 6 + (tap == 'main'), 6, 6))] for tap in shapes}
    with pytest.raises(ValueError, match=r'same levels .* main, auxiliary have \[1, 1\] levels of \[7, 6\] channels'):
        MasKD([*shapes], share_tokens=True).setup(wide, wide)
    assert [(str(one.tap), one.start, one.count) for one in shared.gated_taps] == [('main', 0, 1)]
    single = set_up(MasKD, [(8, 6, 6), (8, 6, 6)], tap='main', **options)
    single.load_tokens({'0.mask_token': shared.mask_modules[0].mask_token})
    sides = [{tap: [draw(2, 8, 6, 6, seed=seed + len(tap))] for tap in shapes} for seed in (0, 50)]
    both = [single(*({'main': side[tap]} for side in sides), None)['loss_maskd'] for tap in shapes]
    torch.testing.assert_close(shared(*sides, None)['loss_maskd'], both[0] + 0.4 * both[1])


def test_maps_of_other_sizes_are_resized_with_a_warning(monkeypatch):
    texts = []
    monkeypatch.setattr(feature, 'print_log', lambda text, *_: texts.append(text))
    distiller = make([((4, 4), (9, 12)), (5, 6)])
    assert len(texts) == 1 and '(4, 4)' in texts[0] and '(9, 12)' in texts[0] and "the student's is resized" in texts[0]
    student, teacher = maps(6, [(4, 4), (5, 6)]), maps(8, [(9, 12), (5, 6)])
    larger = F.interpolate(distiller.aligns[0](student['neck'][0]), (9, 12), mode='bilinear', align_corners=False)
    actual = distiller(student, teacher, None)['level0']
    distiller.aligns[0] = torch.nn.Identity()
    torch.testing.assert_close(actual, naive(distiller, 0, larger, teacher['neck'][0]))


def test_no_tokens_no_loss():
    distiller = MasKD(num_tokens=3)
    shapes = {'neck': [torch.Size((1, 8, 4, 4))]}
    distiller.setup(shapes, shapes)
    with pytest.raises(RuntimeError, match=r'distillers\.maskd has no tokens yet'):
        distiller({'neck': [draw(2, 8, 4, 4)]}, {'neck': [draw(2, 8, 4, 4)]}, None)
    assert not distiller.has_tokens_of('t1')


def test_whose_tokens_these_are_is_kept_in_the_state():
    first, second = make(), make()
    first.load_tokens(random_tokens(first), 't00000000000abcd')
    second.load_state_dict(first.state_dict())
    assert second.has_tokens_of('t00000000000abcd') and not second.has_tokens_of('t00000000000abce')
    first.load_tokens(random_tokens(first))
    assert first.has_tokens_of('t00000000000abcd'), 'an unknown teacher is believed'


def test_learning_on_an_input_is_refused(tmp_path):
    option = dict(NECK, student_tap='decode_head.conv_seg:input', weight_mask=False)
    model = toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), dict(maskd=option))
    with pytest.raises(ValueError, match='an input cannot be replaced'):
        toys.train(tmp_path, model, iters=1)


# The frozen teacher in its own training loss behind the gate


T = 3
LEVELS = 5
NECK_TAPS = [learning.GatedTap(Tap.parse('neck'), 0, LEVELS)]


def frozen(kind, det=True, **options):
    """A network with weights that say something, as the teacher holds it."""
    network = toys.build_plain((toys.det_net if det else toys.seg_net)(kind, **options))
    network.load_state_dict(toys._plain_teacher(kind, 8, None).state_dict())
    network.requires_grad_(False)
    network.eval()
    return network


def batch(network, det=True, masks=False):
    raw = toys.det_batch(masks=masks) if det else toys.seg_batch()
    return network.data_preprocessor(raw, True)


def neck_tokens(channels=16, branch=True, seed=0):
    shapes = {'mask_token': (T, channels)}
    if branch:
        shapes |= {'prob.0.weight': (channels, channels, 3, 3), 'prob.0.bias': (channels,)}
        shapes |= {'prob.2.weight': (T, channels, 1, 1), 'prob.2.bias': (T,)}
    token_shapes = {f'{i}.{name}': torch.Size(shape) for i in range(LEVELS) for name, shape in shapes.items()}
    values = learning.initial_tokens(token_shapes, seed)
    return {name: (value + 0.1).requires_grad_() for name, value in values.items()}


def naive_gate(values, level, x):
    """The gated map and its masks, with an ordinary convolution."""
    masks = reference.maskd_masks(values[f'{level}.mask_token'], x)
    branch = [value for name, value in values.items() if name.startswith(f'{level}.prob.')]
    return reference.maskd_gate(x, masks, reference.maskd_mask_weights(x, *branch) if branch else None), [masks]


@pytest.mark.parametrize('kind', ['tokens', 'tokens and branch', 'bands'])
def test_the_heads_of_a_detector_see_the_masked_levels(kind):
    network, taps, gate = frozen('retinanet'), NECK_TAPS, naive_gate
    values = neck_tokens(branch='branch' in kind)
    if kind == 'bands':
        taps, gate = [learning.GatedTap(Tap.parse('neck'), 0, LEVELS, band_gate)], band_gate
        values = {f'{level}.mask_token': draw(4, 2, 16, seed=level).float() for level in range(LEVELS)}
    data = batch(network)
    with learning.training_objective(network):
        task, dice = learning.gated_loss(network, taps, values, data['inputs'], data['data_samples'])
        features = network.extract_feat(data['inputs'])
        gated, masks = zip(*(gate(values, level, x) for level, x in enumerate(features)), strict=True)
        expected = toys.total(network.bbox_head.loss(gated, data['data_samples']))
        with pytest.raises(RuntimeError, match='5 maps were masked in the teacher, but its trace had 6'):
            learning.gated_loss(network, [replace(taps[0], count=6)], values, **data)
    torch.testing.assert_close(task, expected)
    torch.testing.assert_close(dice, [sum(map(mask_dice, bands)) for bands in masks])
    assert toys.hooks_left(network) == 0


def test_logits_are_gated_before_they_are_resized():
    network = frozen('fcn', det=False)
    values = {'0.mask_token': torch.randn(T, toys.NUM_CLASSES, requires_grad=True)}
    data = batch(network, det=False)
    tap = learning.GatedTap(Tap.parse('decode_head.conv_seg'), 0, 1)
    with learning.training_objective(network):
        task, _ = learning.gated_loss(network, [tap], values, data['inputs'], data['data_samples'])
        features = network.extract_feat(data['inputs'])
        head = network.decode_head
        gated, _ = naive_gate(values, 0, head(features))
        labels = torch.stack([sample.gt_sem_seg.data[0] for sample in data['data_samples']])
        resized = F.interpolate(gated, labels.shape[1:], mode='bilinear', align_corners=False)
        auxiliary = toys.total(network._auxiliary_head_forward_train(features, data['data_samples']))
    torch.testing.assert_close(task, F.cross_entropy(resized, labels, ignore_index=255) + auxiliary)


@pytest.mark.sample(1)
@pytest.mark.parametrize('kind', ['cascade_mask_rcnn', 'retinanet', 'fcos', 'reppoints', 'faster_rcnn'])
def test_every_detector_trains_its_tokens_at_every_level(kind):
    network, values = frozen(kind), neck_tokens()
    data = batch(network, masks=kind == 'cascade_mask_rcnn')
    with learning.training_objective(network):
        task, dice = learning.gated_loss(network, NECK_TAPS, values, data['inputs'], data['data_samples'])
    assert len(dice) == LEVELS and task.isfinite()
    (task + torch.stack(dice).sum()).backward()
    grads = [value.grad for name, value in values.items() if 'mask_token' in name]
    assert all(grad.isfinite().all() and grad.any() for grad in grads)


def test_the_teacher_is_left_as_it_was():
    network = frozen('fcos')
    network.counting = nn.BatchNorm2d(3).requires_grad_(False)  # a loss with state, as some detection heads have
    network.backbone.layer1.train()  # a mixture of modes, as freezing leaves it
    before = copy.deepcopy(network.state_dict())
    modes = {name: module.training for name, module in network.named_modules()}
    data = batch(network)
    with learning.training_objective(network):
        norms = [m for m in network.modules() if isinstance(m, (nn.BatchNorm2d, nn.GroupNorm, nn.Dropout))]
        assert norms and not any(m.training for m in norms)
        assert network.training and network.bbox_head.training and network.backbone.training
        network.counting.train()(data['inputs'])
        learning.gated_loss(network, NECK_TAPS, neck_tokens(), data['inputs'], data['data_samples'])
    assert not toys.differing(network.state_dict(), before)
    assert modes == {name: module.training for name, module in network.named_modules()}
    assert toys.hooks_left(network) == 0 and not any(p.requires_grad for p in network.parameters())


def test_the_mask_branch_is_off_without_masks():
    network = frozen('cascade_mask_rcnn')
    for masks in (False, True):
        samples = batch(network, masks=masks)['data_samples']
        with learning.training_objective(network), learning.only_possible_heads(network, samples):
            assert network.roi_head.with_mask is masks
            assert learning.gated_loss(network, [], {}, batch(network)['inputs'], samples)[0].isfinite()
        assert network.roi_head.with_mask


# FreeKD: wavelet, gate and loss by hand, learning its tokens, and what it refuses


BAND_SIZES = [(8, 16), (13, 6), (7, 1), (1, 1)]
BANDS = ['high', 'all']


def band_naive(student: Tensor, teacher: Tensor, tokens: Tensor, bands: str) -> Tensor:
    """The released form: both maps are transformed, and each of their coefficients multiplied by each mask."""
    terms, s, t = [], student, teacher
    for token in tokens[1:]:
        (s, ours), (t, theirs) = reference.haar_step(s), reference.haar_step(t)
        mask = torch.einsum('tc,nchw->nthw', token, theirs.sum(1)).sigmoid()[:, :, None, None]
        ours, theirs = (one[:, None].expand(-1, len(token), -1, -1, -1, -1) for one in (ours, theirs))
        terms.append((ours * mask - theirs * mask).abs().mean())
    if bands == 'all':
        mask = torch.einsum('tc,nchw->nthw', tokens[0], t).sigmoid()[:, :, None]
        terms.append(((s - t)[:, None] * mask).abs().mean())
    return torch.stack(terms)


@pytest.mark.parametrize('size', BAND_SIZES)
def test_the_inverse_gives_the_map_back(size: tuple[int, int]) -> None:
    x = draw(2, 3, *size).requires_grad_()
    low, details = losses.haar(x)
    expected, first = reference.haar_step(x)
    torch.testing.assert_close(details[0], first.transpose(1, 2))
    torch.testing.assert_close(losses.haar(x, 1)[0], expected)
    assert [tuple(detail.shape[3:]) for detail in details] == [tuple(-(-n // 2**j) for n in size) for j in (1, 2, 3)]
    torch.testing.assert_close(losses.inverse(low, details, size), x)
    ups = [torch.randn_like(detail) for detail in (low, *details)]
    (grad,) = torch.autograd.grad((low, *details), x, ups)
    torch.testing.assert_close(losses.inverse(ups[0], ups[1:], size), grad)
    if all(n % 8 == 0 for n in size):  # Parseval
        torch.testing.assert_close(sum(detail.square().sum() for detail in (low, *details)), x.square().sum())


@pytest.mark.parametrize('size', BAND_SIZES)
def test_the_teachers_map_is_masked_band_by_band(size: tuple[int, int]) -> None:
    x, tokens = draw(2, 3, *size), draw(4, 2, 3, seed=1)
    out, masks = band_gate({'5.mask_token': tokens}, 5, x)
    low, details = losses.haar(x)
    scores = [
        torch.einsum('tc,nchw->nthw', e, band)
        for e, band in zip(tokens, (low, *(d.sum(2) for d in details)), strict=True)
    ]
    torch.testing.assert_close(masks, [score.sigmoid() for score in scores])
    masked = [
        sum(mask[:, [t], None] * detail for t in range(2)) for mask, detail in zip(masks[1:], details, strict=True)
    ]
    torch.testing.assert_close(out, losses.inverse(sum(masks[0][:, [t]] * low for t in range(2)), masked, size))
    assert out.shape == x.shape


@pytest.mark.parametrize('bands', BANDS)
@pytest.mark.parametrize('size', BAND_SIZES)
def test_terms_are_those_of_expanded_masks(size: tuple[int, int], bands: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one block, and in blocks of single channels."""
    teacher, tokens = draw(2, 4, *size), draw(4, 3, 4, seed=1)
    up = torch.arange(1.0, 4 + (bands == 'all'), dtype=torch.float64)
    actual = []
    for function in (band_naive, losses.frequency_terms, losses.frequency_terms):
        student = draw(2, 4, *size, seed=2).requires_grad_()
        terms = function(student, teacher, tokens, bands)
        (terms * up).sum().backward()
        actual.append((terms.detach(), student.grad))
        if function is losses.frequency_terms:
            monkeypatch.setattr('mmdistill_dense.losses.wavelet.block_elements', lambda device: 1)
    torch.testing.assert_close(actual[1], actual[0])
    torch.testing.assert_close(actual[2], actual[0])


def test_the_gradient_of_the_gate_is_that_of_finite_differences() -> None:
    x, tokens = draw(1, 2, 5, 6).requires_grad_(), draw(4, 2, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, t: band_gate({'0.mask_token': t}, 0, x)[0], (x, tokens))


def test_the_terms_share_the_convolution() -> None:
    levels, options = [((4, 9, 12), (6, 9, 12)), ((4, 5, 6), (6, 5, 6))], dict(mse_weight=3.0, bands='all')
    distiller = set_up(FreeKD, *levels, num_tokens=2, loss_weight=2.0, **options)
    student, teacher = ({'tap': [draw(2, *level[side], seed=side) for level in levels]} for side in (0, 1))
    losses = distiller.step(student, teacher, None)
    maps = [conv(x) for conv, x in zip(distiller.aligns, student['tap'], strict=True)]
    tokens = [module.mask_token for module in distiller.mask_modules]
    terms = [band_naive(s, t, e, 'all').sum() for s, t, e in zip(maps, teacher['tap'], tokens, strict=True)]
    torch.testing.assert_close([losses['level0'], losses['level1']], terms)
    torch.testing.assert_close(losses['loss_freekd'], 2 * sum(terms))
    squares = sum(F.mse_loss(s, t) for s, t in zip(maps, teacher['tap'], strict=True))
    torch.testing.assert_close(losses['loss_mse'], 6 * squares)
    assert {name.split('.')[0] for name, _ in distiller.named_parameters()} == {'aligns'}, 'tokens are buffers'


def test_one_token_is_warned_of() -> None:
    with pytest.warns(UserWarning, match='num_tokens=1: Dice'):
        FreeKD(num_tokens=1)
