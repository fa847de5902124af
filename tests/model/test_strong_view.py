"""The strong view of the student: what is drawn, what is left alone, who sees it, what is refused."""

import colorsys
import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmdistill_dense.unlabelled.pictures import without_labels
from mmdistill_dense.unlabelled.step import UnlabelledOption, unlabelled_of
from mmdistill_dense.unlabelled.strong_view import (
    Pixels,
    StrongOption,
    _box,
    blurred,
    jittered,
    luma,
    strong_view,
    turned,
)
from mmdistill_dense.utils.reproducible import stream_states
from tests import toys

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
RGB = Pixels(MEAN, STD, True, 255.0)
FOLDER = dict(data_root='more')
ALWAYS = dict(jitter_prob=1.0, blur=1.0, grey=0.0)
FULL = 1.0  # the largest factor


def part_of(factor, amount):
    """The number from 0 to 1 that gives a factor."""
    low = max(0.0, 1 - amount)
    return (factor - low) / (1 + amount - low)


def samples(*shapes, names=('a.jpg', 'b.jpg', 'c.jpg', 'd.jpg')):
    return [SimpleNamespace(metainfo=dict(img_shape=shape, img_path=f'/x/{name}'))
            for shape, name in zip(shapes, names, strict=False)]  # fmt: skip


def picture(height=5, width=7, seed=0):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


# The operations


def test_the_specification_s_example():
    """Brightness 1.2, contrast 0.7, saturation 1.5 on two pixels; numbers of the specification."""
    rgb = torch.tensor([[100.0, 50.0], [150.0, 60.0], [200.0, 70.0]])[:, None] / 255
    amounts = (0.5, 0.5, 0.5, 0.0)
    factors = [part_of(1.2, 0.5), part_of(0.7, 0.5), part_of(1.5, 0.5), 0.5]
    found = jittered(rgb, amounts, factors)[:, 0] * 255
    expected = torch.tensor([[102.687, 74.379], [165.687, 86.979], [228.687, 99.579]])
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


def test_the_order_is_drawn():
    """Contrast before brightness is another picture than after it."""
    first = jittered(picture(), (0.5, 0.5, 0, 0), [0.9, 0.1, 0, 0], [0, 1, 2, 3])
    second = jittered(picture(), (0.5, 0.5, 0, 0), [0.9, 0.1, 0, 0], [1, 0, 2, 3])
    assert (first - second).abs().max() > 0.01


@pytest.mark.parametrize('turn', [-0.5, -0.2, 0.0, 0.05, 0.5])
def test_hue_turns_as_colorsys_says(turn):
    rgb = picture()
    rgb[:, 0, 0], rgb[:, 0, 1], rgb[:, 0, 2] = 0.4, 0.0, 1.0  # greys have no hue
    found = turned(rgb, turn).permute(1, 2, 0).reshape(-1, 3).numpy()
    for pixel, other in zip(rgb.permute(1, 2, 0).reshape(-1, 3).tolist(), found, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        np.testing.assert_allclose(other, colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value), atol=1e-5)


@pytest.mark.parametrize('sigma', [0.3, 1.0, 2.0])
def test_blur_is_the_naive_sum_with_a_reflected_border(sigma):
    radius = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    one = picture(16, 15)
    wide = np.pad(one.numpy(), ((0, 0), (radius, radius), (radius, radius)), mode='reflect')
    naive = sum(
        kernel[row] * kernel[column] * wide[:, row : row + 16, column : column + 15]
        for row in range(2 * radius + 1)
        for column in range(2 * radius + 1)
    )
    torch.testing.assert_close(blurred(one, sigma), torch.from_numpy(naive).float(), atol=1e-5, rtol=0)


def test_a_picture_smaller_than_the_blur_is_blurred():
    assert blurred(picture(2, 1), 2.0).shape == (3, 2, 1)


def test_grey_is_the_luma():
    one = 255 * picture()
    seen = view((one - column(MEAN)) / column(STD), StrongOption(jitter_prob=0, grey=1, blur=0))
    grey = luma(one).expand(3, -1, -1)
    torch.testing.assert_close(seen * column(STD) + column(MEAN), grey, atol=1e-3, rtol=1e-5)


# The batch


def column(values):
    return torch.tensor(values)[:, None, None]


def view(one, option, pixels=RGB, seed=0):
    return strong_view(one[None], samples(one.shape[1:]), option, pixels, seed)[0]


def batch(count=3, side=24, seed=1):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_padding_is_the_same_to_the_bit_and_counts_for_nothing():
    option, inputs = StrongOption(**ALWAYS, erase=3), batch(1)
    seen = strong_view(inputs, samples((17, 20)), option, RGB, 3)
    assert torch.equal(seen[..., 17:, :], inputs[..., 17:, :]) and torch.equal(seen[..., 20:], inputs[..., 20:])
    cut = strong_view(inputs[..., :17, :20], samples((17, 20)), option, RGB, 3)
    assert torch.equal(seen[..., :17, :20], cut) and not torch.equal(cut, inputs[..., :17, :20])


def test_a_picture_s_numbers_follow_from_seed_and_name_wherever_it_is():
    option, inputs = StrongOption(**ALWAYS), batch()
    first = strong_view(inputs, samples(*[(24, 24)] * 3), option, RGB, 3)
    turned_round = strong_view(
        inputs.flip(0), samples(*[(24, 24)] * 3, names=('c.jpg', 'b.jpg', 'a.jpg')), option, RGB, 3
    )
    assert torch.equal(first, turned_round.flip(0))
    same = inputs[:1].expand(3, -1, -1, -1)
    found = strong_view(same, samples(*[(24, 24)] * 3), option, RGB, 3)
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0], strong_view(same, samples(*[(24, 24)] * 3), option, RGB, 4)[0])


def test_no_global_stream_changes_and_the_inputs_stay():
    inputs = batch()
    before, kept = stream_states(), inputs.clone()
    strong_view(inputs, samples(*[(24, 24)] * 3), StrongOption(**ALWAYS, erase=5), RGB, 3)
    assert stream_states() == before and torch.equal(inputs, kept)


def test_networks_of_either_order_of_colours_see_the_same_picture():
    one, option = 255 * picture(24, 24), StrongOption(**{**ALWAYS, 'grey': 0.5})
    bgr = Pixels(MEAN[::-1], STD[::-1], False, 255.0)
    for seed in range(4):
        first = view((one - column(MEAN)) / column(STD), option, RGB, seed) * column(STD) + column(MEAN)
        second = view((one.flip(0) - column(MEAN[::-1])) / column(STD[::-1]), option, bgr, seed)
        second = (second * column(STD[::-1]) + column(MEAN[::-1])).flip(0)
        torch.testing.assert_close(first, second, atol=1e-2, rtol=1e-4)


def test_pixels_of_0_to_1_are_changed_as_those_of_0_to_255():
    one, option = picture(24, 24), StrongOption(**ALWAYS)
    small = Pixels.of(dict(mean=[m / 255 for m in MEAN], std=[s / 255 for s in STD], bgr_to_rgb=True))
    assert small.white == 1.0 and Pixels.of(dict(mean=MEAN, std=STD, bgr_to_rgb=True)) == Pixels(
        [*MEAN], [*STD], True, 255.0
    )
    whites = [Pixels.of(dict(mean=[0] * 3, std=[std] * 3)).white for std in (0.5, 1)]
    assert whites == [1.0, 255.0], 'a mean of 0 and a std of 1 change nothing, and say nothing'
    first = view((255 * one - column(MEAN)) / column(STD), option)
    second = view((one - column(MEAN) / 255) / (column(STD) / 255), option, small)
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('channels', [1, 4])
def test_pictures_without_three_channels_are_blurred_and_erased_alone(channels):
    inputs = torch.randn(1, channels, 24, 24)
    pixels = Pixels([0.0], [1.0], False, 255.0)
    colours = strong_view(inputs, samples((24, 24)), StrongOption(jitter_prob=1, blur=0, grey=1), pixels, 0)
    torch.testing.assert_close(colours, inputs)
    assert not torch.equal(strong_view(inputs, samples((24, 24)), StrongOption(**ALWAYS), pixels, 0), inputs)


def test_erased_boxes_have_the_areas_and_probabilities_of_the_recipe():
    """Unbiased Teacher's three boxes: 0.7, 0.5 and 0.3 of the pictures, 0.05 or 0.02 to 0.2 of the area."""
    inputs, found = torch.ones(1, 3, 100, 100), []
    option = StrongOption(jitter_prob=0, grey=0, blur=0, erase=1)
    for seed in range(400):
        seen = strong_view(inputs, samples((100, 100)), option, Pixels([0.0], [1.0], True, 255.0), seed)
        found.append(float((seen == 0).float().mean()))
    drawn = np.array([one for one in found if one])
    assert len(drawn) / 400 == pytest.approx(0.7, abs=0.07)
    assert drawn.min() > 0.04 and drawn.max() < 0.21 and drawn.mean() == pytest.approx(0.125, abs=0.01)


@pytest.mark.parametrize(
    ('number', 'probability', 'areas', 'ratios'),
    [(0, 0.7, (0.05, 0.2), (0.3, 3.3)), (1, 0.5, (0.02, 0.2), (0.1, 6)), (2, 0.3, (0.02, 0.2), (0.05, 8))],
)
def test_each_box_reaches_the_ends_of_its_range(number, probability, areas, ratios):
    for end, area in enumerate(areas):
        for other, ratio in enumerate(ratios):
            top, bottom, left, right = _box((1000, 800), number, (probability - 0.01, end, other, 0, 0))
            assert bottom - top == min(1000, round((800_000 * area * ratio) ** 0.5)) and top == 0
            assert right - left == min(800, round((800_000 * area / ratio) ** 0.5)) and left == 0
    assert _box((1000, 1000), number, (probability, 0, 0, 0, 0)) == (0, 0, 0, 0)
    assert _box((1000, 800), number, (0, 1, 0.5, 0.999999, 0.999999))[1::2] == (1000, 800)
    assert _box((3, 3), number, (0, 0, 0, 0, 0))[:2] == (0, 1), 'a pixel at least'


def test_half_precision_is_changed_in_float32():
    inputs = batch().to(torch.bfloat16)
    option = StrongOption(**ALWAYS)
    seen = strong_view(inputs, samples(*[(24, 24)] * 3), option, RGB, 3)
    exact = strong_view(inputs.float(), samples(*[(24, 24)] * 3), option, RGB, 3)
    assert seen.dtype == torch.bfloat16 and torch.equal(seen, exact.to(torch.bfloat16))


# The step


def seg_model(distillers=None, **option):
    return toys.distilled(
        student=toys.seg_net('fcn'),
        teacher=toys.seg_teacher('fcn'),
        distillers=distillers or dict(kd=dict(type='LogitKD')),
        unlabelled=dict(FOLDER, **option),
    )


def seen_by(model, more, iteration=0, labelled=None):
    """The losses of a step, the pictures of the student's passes, and those of the teacher's."""
    model.distillation.state.iteration = iteration
    unlabelled_of(model).batch = copy.deepcopy(more)
    student, teacher = [], []
    network = next(iter(model.distillation.teachers.values())).network
    hooks = [
        model.backbone.register_forward_pre_hook(lambda _, inputs: student.append(inputs[0].clone())),
        network.backbone.register_forward_pre_hook(lambda _, inputs: teacher.append(inputs[0].clone())),
    ]
    found = toys.losses_of(model, labelled)
    for hook in hooks:
        hook.remove()
    return found, student, teacher


@pytest.mark.parametrize('pseudo', [None, dict(threshold=0.3)])
def test_the_student_alone_sees_the_strong_view(pseudo):
    more = toys.bare(toys.seg_batch(3, seed=3))
    plain, students, teachers = seen_by(seg_model(pseudo=pseudo), more)
    found, strong_students, strong_teachers = seen_by(seg_model(pseudo=pseudo, strong=ALWAYS), more)
    assert all(map(torch.equal, teachers, strong_teachers)) and len(teachers) == (2 if pseudo is None else 3)
    assert torch.equal(students[0], strong_students[0]) and not torch.equal(students[1], strong_students[1])
    for name, value in plain.items():
        if name.startswith('decode') or name == 'distill.kd.loss_kd':
            assert torch.equal(value, found[name])
    assert not torch.equal(plain['distill.kd.unlabelled_loss_kd'], found['distill.kd.unlabelled_loss_kd'])


def test_labelled_pictures_too_with_on_all():
    more = toys.bare(toys.seg_batch(3, seed=3))
    plain, students, teachers = seen_by(seg_model(), more)
    found, strong_students, strong_teachers = seen_by(seg_model(strong=dict(ALWAYS, on='all')), more)
    assert all(map(torch.equal, teachers, strong_teachers))
    assert not any(map(torch.equal, students, strong_students))
    assert not torch.equal(plain['decode.loss_ce'], found['decode.loss_ce'])
    assert set(plain) == set(found)


def test_the_student_sees_plain_pictures_before_the_start():
    model, more = seg_model(strong=dict(ALWAYS, start=4)), toys.bare(toys.seg_batch(3, seed=3))
    (_, early, _), (_, late, _) = (seen_by(model, more, iteration) for iteration in (3, 4))
    (_, plain, _) = seen_by(seg_model(), more, 3)
    assert torch.equal(early[1], plain[1]) and not torch.equal(late[1], plain[1])


def test_a_detector_s_pictures_of_several_sizes_keep_their_padding():
    model = toys.distilled(
        'mmdet',
        student=toys.det_net('retinanet'),
        teacher=toys.det_teacher('retinanet', 16, 16),
        distillers=dict(fit=dict(type='FitNet', student_tap='neck[0]')),
        unlabelled=dict(FOLDER, strong='det'),
    )
    more = toys.bare(toys.det_batch(2, seed=3))
    more['inputs'][0] = more['inputs'][0][:, :40, :50]
    more['data_samples'][0].set_metainfo(dict(img_shape=(40, 50), pad_shape=(40, 50)))
    _, students, teachers = seen_by(model, more, labelled=toys.det_batch(2))
    assert torch.equal(students[1][0, :, 40:], teachers[1][0, :, 40:])
    assert not torch.equal(students[1], teachers[1])


# The pipeline of the pictures


def test_the_teacher_s_view_has_no_colour_steps():
    steps = [
        dict(type='LoadImageFromFile'),
        dict(type='mmseg.PhotoMetricDistortion'),
        dict(type='RandomFlip', prob=0.5),
        dict(type='RandomApply', transforms=[dict(type='mmdet.YOLOXHSVRandomAug')], prob=0.5),
        dict(type='RandomChoice', transforms=[[dict(type='RandomGrayscale')], [dict(type='RandomFlip', prob=0.5)]]),
        dict(type='mmseg.PackSegInputs'),
    ]
    kept, left_out = without_labels(steps, [toys.picture_folder(1) + '/0.png'], 'key', colours=False)
    assert left_out == ['PhotoMetricDistortion', 'RandomApply']
    assert [step['type'] for step in kept] == ['LoadImageFromFile', 'RandomFlip', 'RandomChoice', 'mmseg.PackSegInputs']


# The options


def test_the_named_options():
    assert StrongOption.parse(True) == StrongOption() and StrongOption.parse(None) is StrongOption.parse(False) is None
    det = StrongOption.parse('det')
    assert (det.jitter, det.erase) == ((0.4, 0.4, 0.4, 0.1), 3)
    assert StrongOption(jitter=(1, 1, 1, 0.5)).jitters
    assert str(StrongOption()) == 'jitter 0.8 (0.5 0.5 0.5 0.25), grey 0.2, blur 0.5 (0.1 to 2 pixels)'
    assert UnlabelledOption.parse(dict(FOLDER, strong=dict(erase=1))).strong.erase == 1


@pytest.mark.parametrize(
    ('option', 'error', 'words'),
    [
        (dict(blurr=0.5), TypeError, r"strong has no option 'blurr'.*Did you mean 'blur'"),
        (3, TypeError, "must be True, 'det' or a dict"),
        ('seg', ValueError, 'strong'),
        (dict(blur=1.5), ValueError, 'strong.blur must be a probability'),
        (dict(jitter=(0.5, 0.5, 0.5)), ValueError, 'strong.jitter must be four numbers'),
        (dict(jitter=(0.5, 0.5, 0.5, 0.51)), ValueError, 'hue at most 0.5'),
        (dict(sigma=(1.0, 3.0)), ValueError, 'strong.sigma must be two rising numbers above 0 and at most 2'),
        (dict(sigma=(2.0, 1.0)), ValueError, 'strong.sigma'),
        (dict(erase=9), ValueError, 'strong.erase must be a number of boxes from 0 to 5'),
        (dict(on='labelled'), ValueError, 'strong.on'),
        (dict(start=-1), ValueError, 'strong.start'),
        (dict(jitter_prob=0, grey=0, blur=0), ValueError, 'changes nothing'),
    ],
)
def test_wrong_options_are_named(option, error, words):
    with pytest.raises(error, match=words):
        UnlabelledOption.parse(dict(FOLDER, strong=option))
