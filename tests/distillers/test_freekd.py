"""FreeKD: the wavelet and the loss by hand, learning its tokens, and what it refuses."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense import losses
from mmdistill_dense.distillers import FreeKD
from mmdistill_dense.distillers.freekd import band_gate
from mmdistill_dense.distillers.maskd import write_tokens
from mmdistill_dense.distillers.maskd.learning import GatedTap, gated_loss, training_objective
from mmdistill_dense.networks.taps import Tap
from tests import toys
from tests.distillers.maskd import test_gated
from tests.distillers.maskd.tokens import LEARN, det_model, log_of, seg_model, tokens_of
from tests.distillers.steps import draw, set_up
from tools.benchmark import reference

NECK = dict(type='FreeKD', num_tokens=3, learn=LEARN)
SIZES = [(8, 16), (13, 6), (7, 1), (1, 1)]
BANDS = ['high', 'all']


def naive(student: Tensor, teacher: Tensor, tokens: Tensor, bands: str) -> Tensor:
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


@pytest.mark.parametrize('size', SIZES)
def test_the_inverse_gives_the_map_back_and_is_the_gradient(size: tuple[int, int]) -> None:
    x = draw(2, 3, *size).requires_grad_()
    low, details = losses.haar(x)
    expected, first = reference.haar_step(x)
    torch.testing.assert_close(details[0], first.transpose(1, 2))
    torch.testing.assert_close(losses.haar(x, 1)[0], expected)
    assert [tuple(one.shape[3:]) for one in details] == [tuple(-(-n // 2**j) for n in size) for j in (1, 2, 3)]
    torch.testing.assert_close(losses.inverse(low, details, size), x)
    ups = [torch.randn_like(one) for one in (low, *details)]
    (grad,) = torch.autograd.grad((low, *details), x, ups)
    torch.testing.assert_close(losses.inverse(ups[0], ups[1:], size), grad)
    if all(n % 8 == 0 for n in size):  # Parseval
        torch.testing.assert_close(sum(one.square().sum() for one in (low, *details)), x.square().sum())


@pytest.mark.parametrize('size', SIZES)
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
@pytest.mark.parametrize('size', SIZES)
def test_terms_are_those_of_expanded_masks(size: tuple[int, int], bands: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one block, and in blocks of single channels."""
    teacher, tokens = draw(2, 4, *size), draw(4, 3, 4, seed=1)
    up = torch.arange(1.0, 4 + (bands == 'all'), dtype=torch.float64)
    found = []
    for function in (naive, losses.frequency_terms, losses.frequency_terms):
        student = draw(2, 4, *size, seed=2).requires_grad_()
        terms = function(student, teacher, tokens, bands)
        (terms * up).sum().backward()
        found.append((terms.detach(), student.grad))
        if function is losses.frequency_terms:
            monkeypatch.setattr('mmdistill_dense.losses.wavelet.block_elements', lambda device: 1)
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


def test_the_gradient_of_the_gate_is_that_of_finite_differences() -> None:
    x, tokens = draw(1, 2, 5, 6).requires_grad_(), draw(4, 2, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, t: band_gate({'0.mask_token': t}, 0, x)[0], (x, tokens))


def test_the_gate_of_half_precision_is_computed_in_float32() -> None:
    teacher, tokens = draw(2, 4, 9, 9, seed=1).half(), draw(4, 2, 4)
    masks = losses.frequency_masks(tokens.float(), teacher)
    gated, exact = (losses.frequency_gate(one, masks) for one in (teacher, teacher.float()))
    assert gated.dtype == torch.float16 and torch.equal(gated, exact.half())


def test_the_terms_share_the_convolution_and_are_weighted() -> None:
    levels, options = [((4, 9, 12), (6, 9, 12)), ((4, 5, 6), (6, 5, 6))], dict(mse_weight=3.0, bands='all')
    distiller = set_up(FreeKD, *levels, num_tokens=2, loss_weight=2.0, **options)
    student, teacher = ({'tap': [draw(2, *one[side], seed=side) for one in levels]} for side in (0, 1))
    found = distiller.step(student, teacher, None)
    maps = [conv(x) for conv, x in zip(distiller.aligns, student['tap'], strict=True)]
    tokens = [module.mask_token for module in distiller.mask_modules]
    terms = [naive(s, t, e, 'all').sum() for s, t, e in zip(maps, teacher['tap'], tokens, strict=True)]
    torch.testing.assert_close([found['level0'], found['level1']], terms)
    torch.testing.assert_close(found['loss_freekd'], 2 * sum(terms))
    squares = sum(F.mse_loss(s, t) for s, t in zip(maps, teacher['tap'], strict=True))
    torch.testing.assert_close(found['loss_mse'], 6 * squares)
    assert {name.split('.')[0] for name, _ in distiller.named_parameters()} == {'aligns'}, 'tokens are buffers'


def test_the_heads_see_the_masked_levels_and_dice_is_that_of_every_band() -> None:
    network = test_gated.frozen('retinanet')
    data, generator = test_gated.batch(network), torch.Generator().manual_seed(0)
    values = {f'{level}.mask_token': 0.3 * torch.randn(4, 2, 16, generator=generator) for level in range(5)}
    taps = [GatedTap(Tap.parse('neck'), 0, 5, band_gate)]
    with training_objective(network):
        gated, dice = gated_loss(network, taps, values, data['inputs'], data['data_samples'])
        maps, masks = zip(
            *(band_gate(values, n, x) for n, x in enumerate(network.extract_feat(data['inputs']))), strict=True
        )
        task = toys.total(network.bbox_head.loss(maps, data['data_samples']))
    torch.testing.assert_close(gated, task)
    torch.testing.assert_close(dice, [sum(map(losses.mask_dice, bands)) for bands in masks])


def test_a_segmentor_learns_its_tokens(tmp_path: Any) -> None:
    option = dict(NECK, student_tap='backbone[3]', learn=dict(LEARN, max_iters=8))
    runner = toys.train(tmp_path, seg_model(option), iters=2, log_level='INFO')
    logged = {name for name in runner.message_hub.log_scalars if 'maskd' in name}
    assert logged == {f'train/distill.maskd.{name}' for name in ('loss_freekd', 'loss_mse', 'level0', 'share')}
    (line,) = [line for line in log_of(tmp_path).splitlines() if 'tokens [8/8]' in line]
    dice = float(line.split('dice: ')[1].split()[0])
    assert 0 < dice < 4, 'the sum of four bands, which begin near 1'


def test_tokens_of_other_shapes_are_refused_with_both(tmp_path: Any) -> None:
    """A file of MasKD, of another number of tokens; the branch of a released file is left out."""
    model = det_model(NECK)
    runner = toys.train(None, toys.det_run_config(tmp_path / 'a', model, iters=1))
    values = tokens_of(runner)
    released = {name: torch.ones(3) for name in (f'{i}.prob.2.bias' for i in range(5))}
    write_tokens(tmp_path / 'released.pth', values | released, {})
    given = dict(NECK, tokens=str(tmp_path / 'released.pth'))
    again = toys.train(None, toys.det_run_config(tmp_path / 'b', det_model(given), iters=1))
    assert not toys.differing(tokens_of(again), values)
    for part, held in ((slice(2), '4 x 2 tokens'), (0, '4 tokens')):
        cut = {name: value[:, part] if part != 0 else value[:, 0] for name, value in values.items()}
        write_tokens(tmp_path / 'other.pth', cut, {})
        given = dict(NECK, tokens=str(tmp_path / 'other.pth'))
        expected = f'holds {held} of 32 channels on 5 levels.*needs 4 x 3 tokens of 32 channels on 5 levels'
        with pytest.raises(ValueError, match=expected):
            toys.train(None, toys.det_run_config(tmp_path / 'c', det_model(given), iters=1))


def test_one_token_is_warned_of() -> None:
    with pytest.warns(UserWarning, match='num_tokens=1: Dice'):
        FreeKD(num_tokens=1)
