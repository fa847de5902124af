"""What a teacher sees: pixels in its own normalisation, at a size that it takes, and looked at in the first step."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.model import ImgDataPreprocessor

from mmdistill_dense.networks.inputs import InputGrid, InputStats, cells, check_teacher_inputs, make_renormaliser
from mmdistill_dense.registry import MODELS
from tests import toys
from tests.foundation import files

RGB = dict(mean=[123.0, 116.0, 103.0], std=[58.0, 57.0, 56.0], bgr_to_rgb=True)
BGR = dict(mean=[7.0, 8.0, 9.0], std=[1.0, 2.0, 3.0])
GREY = dict(mean=[128.0], std=[127.0])
FLIPS = ('bgr_to_rgb', 'rgb_to_bgr', 'to_rgb')


def normalised(pixels, preprocessor):
    """Pixels as a preprocessor gives them: colours turned, then one mean and deviation a channel or for all."""
    flips = pixels.shape[1] == 3 and any(preprocessor.get(name) for name in FLIPS)
    numbers = (preprocessor.get(name) or [value] for name, value in (('mean', 0.0), ('std', 1.0)))
    mean, std = (torch.tensor(number).view(-1, 1, 1) for number in numbers)
    return ((pixels.flip(1) if flips else pixels) - mean) / std


# Normalisation


def bands(count):
    """Two preprocessors for pictures of so many channels; colours alone are turned."""
    student = dict(mean=[10.0 * i for i in range(count)], std=[1.0 + i for i in range(count)], bgr_to_rgb=True)
    return student, dict(mean=[3.0] * count, std=[2.0 + i for i in range(count)])


@pytest.mark.parametrize(('student', 'teacher', 'channels'), [
    *((BGR, {'mean': RGB['mean'], 'std': RGB['std'], flip: True}, 3) for flip in FLIPS),
    *((*bands(count), count) for count in (1, 4, 6)),
    (GREY, RGB, 3), (RGB, GREY, 3), (dict(mean=[128.0], std=[1.0, 2.0, 3.0]), BGR, 3),  # one number for all channels
    (dict(), RGB, 3), (dict(mean=None, std=None), BGR, 3),
    (GREY, RGB, 1),  # a grey picture is one of equal colours to its teacher
])  # fmt: skip
def test_a_teacher_gets_the_pixels_of_its_preprocessor(student, teacher, channels):
    pixels = torch.rand(2, channels, 4, 4) * 255
    renormalised = make_renormaliser(student, teacher)(normalised(pixels, student))
    coloured = pixels.expand(-1, max(channels, len(teacher['mean'])), -1, -1)
    torch.testing.assert_close(renormalised, normalised(coloured, teacher))
    assert make_renormaliser(student, dict(student)) is None


def test_equal_normalisation_is_left_as_it_is():
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(make_renormaliser(BGR, RGB)(make_renormaliser(RGB, BGR)(x)), x)
    nested = dict(type='MultiBranchDataPreprocessor', data_preprocessor=RGB)
    same = ((None, None), (dict(rgb_to_bgr=True),) * 2, (nested, RGB), (RGB, dict(data_preprocessor=nested)))
    turned = ((RGB, {'mean': RGB['mean'], 'std': RGB['std'], flip: True}) for flip in FLIPS)
    assert all(make_renormaliser(*pair) is None for pair in (*same, *turned))


def test_pictures_of_other_channels_are_refused():
    six = dict(mean=[0.0] * 6, std=[1.0] * 6)
    with pytest.raises(ValueError, match=r'that of model\.teacher\.big mean=.*the same number of channels'):
        make_renormaliser(RGB, six, 'model.teacher.big')
    change = make_renormaliser(dict(mean=[110.0], std=[60.0]), RGB)
    with pytest.raises(ValueError, match=r'model\.teacher: mean and std .* for 3 channels; the pictures have 6'):
        change(torch.zeros(2, 6, 4, 4))


def of_channels(count, means):
    """A network for pictures of so many channels, with this many means; mmseg takes 1 or 3."""
    pixels = dict(mean=[120.0] * means or None, std=[60.0] * means or None, bgr_to_rgb=False)
    return toys.seg_net('fcn', data_preprocessor=pixels, backbone=dict(in_channels=count), allow_random=True)


@pytest.mark.sample(5)
@pytest.mark.parametrize(('student', 'teacher', 'means'), [
    *((student, teacher, 'single') for student, teacher in ((1, 3), (3, 1), (4, 4), (3, 4))),
    *((1, 3, means) for means in ('none', 'each')),
])  # fmt: skip
def test_grey_is_repeated_while_other_channels_are_refused(student, teacher, means):
    numbers = [dict(none=0, single=1, each=count if count == 3 else 1)[means] for count in (student, teacher)]
    student_mean, other = map(of_channels, (student, teacher), numbers)
    option = toys.model_config({key: student_mean[key] for key in student_mean if key != 'allow_random'}, other)
    if student != teacher and (student, teacher) != (1, 3):
        words = rf'model\.teacher.* {teacher} channels, .* {student}, .*model\.teacher\.data_preprocessor'
        with pytest.raises(ValueError, match=words):
            toys.build(option)
        return
    model = toys.ready(toys.build(option))
    batch = toys.seg_batch()
    batch['inputs'] = [picture[:1].repeat(student, 1, 1) for picture in batch['inputs']]
    assert toys.losses_of(model, batch)['distill.kd.loss_kd'].isfinite()
    frozen, pixels = toys.teacher_of(model), model.data_preprocessor(batch, True)['inputs']
    ((scores,),) = frozen(pixels).values()
    repeated = pixels.expand(-1, teacher, -1, -1)
    torch.testing.assert_close(scores, frozen.network.decode_head(frozen.network.extract_feat(repeated)))


@MODELS.register_module()
class OwnPreprocessor(ImgDataPreprocessor):
    """It knows its normalisation, which no config repeats."""

    def __init__(self, mean=tuple(RGB['mean']), std=tuple(RGB['std']), size=None):
        super().__init__(mean, std, bgr_to_rgb=True)


@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_a_class_that_sets_its_own_normalisation_is_asked(side):
    options = dict(student=toys.seg_net(), teacher=toys.seg_net(width=16, allow_random=True))
    options[side]['data_preprocessor'] = dict(_delete_=True, type='mmdistill_dense.OwnPreprocessor')
    renormalise = toys.teacher_of(toys.build(toys.model_config(**options))).plan.renormalise
    zoo = dict(IMAGENET, bgr_to_rgb=True)
    expected = make_renormaliser(*((RGB, zoo) if side == 'student' else (zoo, RGB)))
    x = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(renormalise(x), expected(x))


# The look at the first batch


IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
CAFFE = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0])
SCALED = dict(mean=[0.0, 0.0, 0.0], std=[255.0, 255.0, 255.0])
UNIT = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
RAW = dict(mean=None, std=None)


def draw(*size):
    return torch.rand(*size, generator=torch.Generator().manual_seed(0))


PICTURES = (draw(2, 3, 16, 16) * 256).floor()


def look_at(pixels, preprocessor, **maps):
    return InputStats.of(normalised(pixels, preprocessor), preprocessor, {name: [one] for name, one in maps.items()})


def refuse(*looks, **config):
    for look in looks:
        check_teacher_inputs('model.teacher', [look], config)


@pytest.mark.parametrize('preprocessor', [IMAGENET, CAFFE, SCALED], ids=['imagenet', 'caffe', 'scaled'])
@pytest.mark.parametrize('before', [IMAGENET, UNIT, dict(mean=[0.0], std=[255.0]), dict(mean=[127.5], std=[127.5])])
def test_pixels_that_were_normalised_before_are_refused(preprocessor, before):
    """And those to 255 for a preprocessor of pixels to 1."""
    pixels = PICTURES / 255 if before is UNIT else PICTURES
    with pytest.raises(ValueError, match=r'^model\.teacher: mean and std .* a Normalize step in the training pipeline'):
        refuse(look_at(normalised(pixels, before), preprocessor))
    words = r'numbers up to 0\.485, but the pixels of the first batch are from 0 to 255\.'
    with pytest.raises(ValueError, match=words):
        refuse(look_at(PICTURES, UNIT))
    refuse(look_at(PICTURES / 255, UNIT))


def test_a_step_that_subtracts_the_mean_is_refused():
    def loader(**step):
        return dict(dataset=dict(pipeline=[dict(type='mmdet.Normalize', **step)]))

    twice = look_at(normalised(PICTURES, CAFFE), CAFFE)
    refuse(twice)
    words = r"a Normalize step .*train_dataloader\.dataset has \{'type': 'mmdet.Normalize'"
    with pytest.raises(ValueError, match=words):
        refuse(twice, train_dataloader=loader(**CAFFE))
    refuse(look_at(normalised(PICTURES, CAFFE), RAW), train_dataloader=loader(**CAFFE))
    refuse(look_at(PICTURES / 255, UNIT), train_dataloader=loader(mean=[0.0] * 3, std=[255.0] * 3))


@pytest.mark.parametrize('preprocessor', [IMAGENET, CAFFE, SCALED, RAW], ids=['imagenet', 'caffe', 'scaled', 'raw'])
def test_dull_pictures_go_on(preprocessor):
    dull = torch.zeros(2, 3, 16, 16)
    dull[0, :, 3, 4] = 2.0
    dark = draw(2, 3, 16, 16) * 20  # floats, as after a change of colours
    for pixels in (PICTURES, torch.zeros(2, 3, 16, 16), torch.full((2, 3, 16, 16), 0.4), dull, dark, PICTURES * 256):
        refuse(look_at(pixels, preprocessor))


def test_data_of_another_kind_go_on(monkeypatch):
    """In units of their own, with more axes, in half precision; and a dark batch of one process."""
    for mean, std in ((2.5, 2.1), (-500.0, 400.0), (0.02, 0.01), (1e4, 3e3)):
        refuse(look_at(mean + std * torch.randn(2, 3, 16, 16), dict(mean=[mean], std=[std])))
    video = InputStats.of(normalised(PICTURES, IMAGENET)[:, :, None], IMAGENET, {})
    half = InputStats.of(normalised(torch.ones(2, 3, 16, 16).triu(), IMAGENET).half(), IMAGENET, {})
    refuse(video, half)
    assert video.high == pytest.approx(255, abs=1) and half.whole
    wrong, right = (look_at(pixels, IMAGENET) for pixels in (PICTURES / 255, PICTURES))
    monkeypatch.setattr('mmdistill_dense.networks.inputs.all_gather_object', lambda looks: [looks, [right]])
    refuse(wrong)


def test_maps_that_do_not_vary_are_refused():
    constant = torch.randn(1, 5, 1, 1).expand(2, 5, 4, 4)
    with pytest.raises(ValueError, match=r'its maps at a are the same at all positions of all pictures.*running_var'):
        refuse(look_at(PICTURES, IMAGENET, a=constant, b=torch.randn(2, 5, 4, 4)))
    with pytest.raises(ValueError, match='its maps at tokens'):
        refuse(look_at(PICTURES, IMAGENET, tokens=constant.flatten(2).mT))
    dead = torch.zeros(2, 5, 4, 4)
    dead[1, 2, 0, 3] = 1e-4  # a single position behind a ReLU
    faint = torch.full((2, 5, 4, 4), -4.6)  # the scores of a head that has just been initialised
    faint[0, :, 0, 0] += 1e-4
    single, queries, rows = torch.ones(2, 5, 1, 1), draw(2, 7, 5), torch.ones(9, 5)
    refuse(look_at(PICTURES, IMAGENET, dead=dead, faint=faint, single=single, queries=queries, rows=rows))
    refuse(look_at(torch.zeros(2, 3, 16, 16), IMAGENET, map=torch.zeros(2, 5, 4, 4)))
    refuse(InputStats.of(normalised(PICTURES, IMAGENET), IMAGENET, dict(neck=[torch.zeros(2, 5, 4, 4), dead])))


# Another size


sides = st.integers(14, 700)
patches = st.sampled_from([8, 14, 16])


def seen(pictures, patch, scale=1.0, fit='resize'):
    """The means of the patches that a teacher sees, brought back to the picture."""
    grid = InputGrid(scale, fit, patch)
    means = F.avg_pool2d(grid(pictures), patch)
    return grid.restored({'map': [means]}, pictures.shape[2:])['map'][0]


def ramp(height, width):
    """Every pixel holds the places of its centre in pixels, row and column."""
    rows, columns = (torch.arange(side, dtype=torch.float64) + 0.5 for side in (height, width))
    return torch.stack(torch.meshgrid(rows, columns, indexing='ij'))[None]


def place_error(found, height, width):
    """How far, in pixels, the cells of a map lie from where an even grid over the picture has them."""
    h, w = found.shape[2:]
    rows, columns = (torch.arange(h) + 0.5) * height / h, (torch.arange(w) + 0.5) * width / w
    return (found[0] - torch.stack(torch.meshgrid(rows, columns, indexing='ij'))).abs()


@settings(max_examples=200, deadline=None)
@given(sides, sides, patches, st.sampled_from([0.25, 0.5, 0.75, 1.0, 1.5, 2.0]))
def test_resized_cells_lie_where_their_map_says(height, width, patch, scale):
    if math.prod(cells(torch.empty(1, 1, height, width), patch, scale)) < 4:
        return
    actual = seen(ramp(height, width), patch, scale)
    h, w = actual.shape[2:]
    assert (h, w) == tuple(max(1, int(scale * side / patch + 0.5)) for side in (height, width))
    error = place_error(actual, height, width)
    inner = error[:, 1 : h - 1, 1 : w - 1]  # there is nothing to interpolate beyond the border
    assert inner.numel() == 0 or inner.max() < 1e-3


@settings(max_examples=100, deadline=None)
@given(sides, sides, patches)
def test_padded_cells_lie_where_their_map_says(height, width, patch):
    actual = seen(ramp(height, width), patch, fit='pad')
    # A cell that is partly padding, or whose neighbour is, is no mean of the picture's own pixels.
    h, w = (side // patch - 1 for side in (height, width))
    error = place_error(actual, height, width)[:, 1 : max(h, 1), 1 : max(w, 1)]
    assert error.numel() == 0 or error.max() < 0.01


def test_whole_patches_stay():
    """Padding needs a multiple, and the maps cover the picture."""
    pictures, vectors = torch.rand(1, 3, 28, 42), torch.rand(1, 6)
    for fit in ('resize', 'pad'):
        assert torch.equal(InputGrid(1.0, fit, 14)(pictures), pictures)
    grid = InputGrid(1.0, 'pad', 14)
    padded = grid(torch.ones(1, 3, 20, 30))
    assert padded.shape == (1, 3, 28, 42) and padded[..., 20:, :].abs().sum() == padded[..., 30:].abs().sum() == 0
    assert grid.restored({'cls': [vectors]}, (20, 30))['cls'][0] is vectors
    with pytest.raises(ValueError, match=r"fit='pad': nothing says to which multiple .*size_divisor=32"):
        toys.frozen(toys.seg_net('fcn', allow_random=True, fit='pad'), 'backbone[3]')
    divided = toys.seg_teacher('fcn', fit='pad', data_preprocessor=dict(size=None, size_divisor=32))
    frozen = toys.frozen(divided, 'backbone[3]')
    frozen.load(torch.zeros(1))
    assert frozen(torch.randn(1, 3, 50, 70))['backbone[3]'][0].shape[2:] == (6, 9)


def vit(**changes):
    return dict(type='mmdistill_dense.FoundationTeacher', model=files.tiny('dinov2'), allow_random=True, **changes)


@pytest.mark.parametrize(('changes', 'match'), [
    (dict(scale=0), r'model.teacher.scale must be a finite number > 0, got 0'),
    (dict(scale=True), r'model.teacher.scale must be a finite number > 0, got True'),
    (dict(fit='crop'), r"model.teacher.fit must be one of 'resize', 'pad', got 'crop'"),
    (dict(fit='pad', scale=0.5), r"fit='pad' keeps every pixel, so it does not go with model.teacher.scale=0.5"),
    (dict(scale=0.01), r'teacher.scale=0.01 leaves 1 x 1 cells of 14 pixels'),
])  # fmt: skip
def test_wrong_options_are_refused(changes, match):
    with pytest.raises((ValueError, RuntimeError), match=match):
        toys.frozen(vit(**changes), 'map')


@pytest.mark.parametrize('scale', [0.5, 2.0])
def test_any_teacher_sees_a_picture_of_another_size(scale):
    """mmseg and mmdet networks, the latter in multiples of 32, and vision transformers."""
    one = (toys.seg_teacher('fcn', scale=scale), 'backbone[3]', 8)
    if scale == 2:
        one = (toys.det_teacher(scale=scale), 'neck[1]', 16)
    for teacher, tap, stride in (one, (vit(scale=scale), 'map', 14)):
        frozen = toys.frozen(teacher, tap, size=(128, 192))
        frozen.load(torch.zeros(1))
        pictures = torch.randn(1, 3, 128, 192)
        actual = frozen(pictures)[tap][0]
        assert actual.shape[2:] == tuple(round(side * scale / stride) for side in (128, 192))
        resized = F.interpolate(pictures, scale_factor=scale, mode='bilinear')  # by half: the mean of four
        if stride != 14:
            direct = toys.frozen({name: value for name, value in teacher.items() if name != 'scale'}, tap)
            direct.load(torch.zeros(1))
            torch.testing.assert_close(actual, direct(resized)[tap][0], atol=1e-4, rtol=1e-4)


def test_methods_that_call_the_teachers_heads_need_one_size():
    for option in (dict(scale=0.5), dict(fit='pad')):
        teacher = toys.merged(toys.det_net('gfl', allow_random=True), option)
        with pytest.raises(ValueError, match=r'LD runs the teacher on places .* leave model.teacher.scale and'):
            toys.distilled('mmdet', student=toys.det_net('gfl'), teacher=teacher, distillers=dict(d=dict(type='LD')))
