"""MasKD: the formula, when student masks begin, which tokens a level uses, real networks."""

import pytest
import torch
import torch.nn.functional as F

from mmdistill_dense.distillers import MasKD, feature
from tests import toys
from tests.distillers.maskd.tokens import LEARN, NECK, det_model, random_tokens, tokens_of
from tests.distillers.steps import draw, set_up
from tools.benchmark import reference

SIZES = [(9, 12), (5, 6), (1, 3)]


def make(sizes=SIZES, iteration=0, **options):
    """A distiller with tokens for levels of these sizes, or pairs of sizes."""
    pairs = [one if isinstance(one[0], tuple) else (one, one) for one in sizes]
    made = set_up(MasKD, *[((6, *own), (8, *other)) for own, other in pairs], tap='neck', num_tokens=3, **options)
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
    found = distiller.step(student, teacher, None)
    torch.testing.assert_close(found.pop('loss_maskd'), distiller.loss_weight * sum(each))
    torch.testing.assert_close(found, {f'level{i}': value for i, value in enumerate(each)})


def test_the_students_masks_begin_with_their_iteration():
    student, teacher = maps(6), maps(8)

    def value(iteration, since):
        return make(student_mask_from=since, iteration=iteration)(student, teacher, None)['loss_maskd'].item()

    never, always = value(0, None), value(0, 0)
    assert never != always
    assert [value(k, 5) for k in (4, 5, 6)] == [never, always, always]


def test_shared_tokens_serve_every_tap_and_are_learned_on_the_first():
    options = dict(num_tokens=3, weight_mask=False, align='none')
    shared = MasKD(['main', ('auxiliary', 0.4)], share_tokens=True, **options)
    shapes = {tap: [torch.Size((1, 8, 6, 6))] for tap in ('main', 'auxiliary')}
    shared.setup(shapes, shapes)
    shared.double().load_tokens(random_tokens(shared))
    assert sorted(shared.token_shapes()) == ['0.mask_token']
    assert [(str(one.tap), one.first, one.count) for one in shared.gated_taps] == [('main', 0, 1)]
    single = set_up(MasKD, [(8, 6, 6), (8, 6, 6)], tap='main', **options)
    single.load_tokens({'0.mask_token': shared.mask_modules[0].mask_token})
    sides = [{tap: [draw(2, 8, 6, 6, seed=seed + len(tap))] for tap in shapes} for seed in (0, 50)]
    both = [single(*({'main': side[tap]} for side in sides), None)['loss_maskd'] for tap in shapes]
    torch.testing.assert_close(shared(*sides, None)['loss_maskd'], both[0] + 0.4 * both[1])


def test_maps_of_other_sizes_are_resized_with_a_warning(monkeypatch):
    told = []
    monkeypatch.setattr(feature, 'print_log', lambda text, *_: told.append(text))
    distiller = make([((4, 4), (9, 12)), (5, 6)])
    assert len(told) == 1 and '(4, 4)' in told[0] and '(9, 12)' in told[0] and "the student's is resized" in told[0]
    student, teacher = maps(6, [(4, 4), (5, 6)]), maps(8, [(9, 12), (5, 6)])
    larger = F.interpolate(distiller.aligns[0](student['neck'][0]), (9, 12), mode='bilinear', align_corners=False)
    found = distiller(student, teacher, None)['level0']
    distiller.aligns[0] = torch.nn.Identity()
    torch.testing.assert_close(found, naive(distiller, 0, larger, teacher['neck'][0]))


def test_names_are_those_of_the_released_files():
    names = list(make().state_dict())
    for level in range(3):
        for name in ('mask_token', 'prob.0.weight', 'prob.0.bias', 'prob.2.weight', 'prob.2.bias'):
            assert f'mask_modules.{level}.{name}' in names
    assert 'tokens_ready' in names


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


def test_the_whole_teacher_is_needed_to_learn_only():
    assert MasKD().teacher_parts is None and MasKD(tokens='x.pth').teacher_parts == ()


def test_shape_errors_at_construction():
    levels = {'a': [torch.Size((1, 8, 4, 4))], 'b': [torch.Size((1, 6, 4, 4))]}
    with pytest.raises(
        ValueError, match=r'share_tokens=True needs the same levels .* a, b have \[1, 1\] levels of \[8, 6\] channels'
    ):
        MasKD(['a', 'b'], share_tokens=True).setup(levels, levels)


def test_learning_on_an_input_is_refused(tmp_path):
    option = dict(NECK, student_tap='decode_head.conv_seg:input', weight_mask=False)
    model = toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), dict(maskd=option))
    with pytest.raises(ValueError, match='an input cannot be replaced'):
        toys.train(tmp_path, model, iters=1)


def test_deeplabv3_learns_on_its_logits_and_distils_both_heads(tmp_path):
    option = dict(type='MasKD', student_tap=['decode_head', ('auxiliary_head', 0.4)], num_tokens=8, weight_mask=False,
                  align='none', factor=0.5, eps=1e-5, share_tokens=True, learn=LEARN)  # fmt: skip
    model = toys.model_config(toys.seg_net(), toys.seg_teacher(), dict(maskd=option))
    runner = toys.train(tmp_path, model, iters=2)
    assert tuple(tokens_of(runner)['0.mask_token'].shape) == (8, toys.NUM_CLASSES)
    logged = {name for name in runner.message_hub.log_scalars if 'maskd' in name}
    assert logged == {f'train/distill.maskd.{name}' for name in ('loss_maskd', 'level0', 'level1', 'share')}
    content = torch.load(tmp_path / 'iter_2.pth', weights_only=False)
    toys.build_plain(toys.seg_net()).load_state_dict(content['state_dict'], strict=True)


def test_averaging_leaves_the_tokens_out(tmp_path):
    hooks = [dict(type='EMAHook', momentum=0.5)]
    toys.train(tmp_path, toys.det_run_config(tmp_path, det_model(), iters=2, custom_hooks=hooks))
    content = torch.load(tmp_path / 'iter_2.pth', weights_only=False)
    assert content['ema_state_dict'] and not any('distillers' in name for name in content['ema_state_dict'])
