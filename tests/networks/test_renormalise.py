"""A teacher gets the pixels that its own preprocessor would have made of the student's batch."""

import pickle

import pytest
import torch
from mmengine.model import ImgDataPreprocessor

from mmdistill_dense.networks.inputs import make_renormaliser
from mmdistill_dense.registry import MODELS
from tests import toys

RGB = dict(mean=[123.0, 116.0, 103.0], std=[58.0, 57.0, 56.0], bgr_to_rgb=True)
BGR = dict(mean=[7.0, 8.0, 9.0], std=[1.0, 2.0, 3.0])


def normalised(pixels, preprocessor, flip):
    """Pixels as a preprocessor gives them: colours turned, then one mean and deviation a channel or for all."""
    pixels = pixels.flip(1) if flip else pixels
    mean, std = (torch.tensor(preprocessor[name]).view(-1, 1, 1) for name in ('mean', 'std'))
    return (pixels - mean) / std


def test_both_directions_together_are_the_identity():
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(make_renormaliser(BGR, RGB)(make_renormaliser(RGB, BGR)(x)), x)
    assert make_renormaliser(RGB, dict(RGB)) is None and make_renormaliser(None, None) is None
    assert make_renormaliser(dict(rgb_to_bgr=True), dict(rgb_to_bgr=True)) is None


@pytest.mark.parametrize('flips', ['bgr_to_rgb', 'rgb_to_bgr', 'to_rgb'])
def test_each_name_of_a_turn_of_colours_is_read(flips):
    turned = {'mean': RGB['mean'], 'std': RGB['std'], flips: True}
    assert make_renormaliser(RGB, turned) is None
    pixels = torch.rand(2, 3, 4, 4) * 255
    seen = make_renormaliser(BGR, turned)(normalised(pixels, BGR, flip=False))
    torch.testing.assert_close(seen, normalised(pixels, turned, flip=True))


def test_a_preprocessor_inside_another_is_read():
    nested = dict(type='MultiBranchDataPreprocessor', data_preprocessor=RGB)
    assert make_renormaliser(nested, RGB) is None and make_renormaliser(RGB, dict(data_preprocessor=nested)) is None


@pytest.mark.parametrize('channels', [1, 4, 6])
def test_other_numbers_of_channels(channels):
    student = dict(mean=[10.0 * i for i in range(channels)], std=[1.0 + i for i in range(channels)], bgr_to_rgb=True)
    teacher = dict(mean=[3.0] * channels, std=[2.0 + i for i in range(channels)])
    pixels = torch.rand(2, channels, 4, 4) * 255
    seen = make_renormaliser(student, teacher)(normalised(pixels, student, flip=False))
    torch.testing.assert_close(seen, normalised(pixels, teacher, flip=False))
    assert make_renormaliser(student, dict(student)) is None


@pytest.mark.parametrize(('student', 'teacher'), [
    (dict(mean=[128.0], std=[127.0]), RGB), (RGB, dict(mean=[128.0], std=[127.0])),
    (dict(mean=[128.0], std=[1.0, 2.0, 3.0]), BGR), (dict(), RGB), (dict(mean=None, std=None), BGR),
])  # fmt: skip
def test_one_number_serves_all_channels(student, teacher):
    both = [dict(mean=[0.0], std=[1.0]) | {k: v for k, v in p.items() if v is not None} for p in (student, teacher)]
    pixels = torch.rand(2, 3, 4, 4) * 255
    flips = [bool(p.get('bgr_to_rgb')) for p in both]
    seen = make_renormaliser(student, teacher)(normalised(pixels, both[0], flips[0]))
    torch.testing.assert_close(seen, normalised(pixels, both[1], flips[1]))


def test_a_grey_picture_is_one_of_equal_colours_to_its_teacher():
    grey = dict(mean=[128.0], std=[127.0])
    pixels = torch.rand(2, 1, 4, 4) * 255
    seen = make_renormaliser(grey, RGB)(normalised(pixels, grey, flip=False))
    torch.testing.assert_close(seen, normalised(pixels.expand(-1, 3, -1, -1), RGB, flip=True))


def test_pictures_of_other_channels_are_refused():
    six = dict(mean=[0.0] * 6, std=[1.0] * 6)
    with pytest.raises(ValueError, match=r'that of model\.teacher\.big mean=.*the same number of channels'):
        make_renormaliser(RGB, six, 'model.teacher.big')
    change = make_renormaliser(dict(mean=[110.0], std=[60.0]), RGB)
    with pytest.raises(ValueError, match=r'model\.teacher: mean and std .* for 3 channels; the pictures have 6'):
        change(torch.zeros(2, 6, 4, 4))


def test_it_is_pickled_and_its_pickle_needs_no_device():
    """A model that trained on a GPU and was moved to the CPU is read where there is no GPU."""
    x, one = torch.randn(2, 3, 4, 4), make_renormaliser(RGB, BGR)
    assert torch.equal(pickle.loads(pickle.dumps(one))(x), one(x))
    one(torch.empty(2, 3, 4, 4, device='meta'))
    assert vars(pickle.loads(pickle.dumps(one)))['moved'].device.type == 'cpu'


@MODELS.register_module()
class OwnPreprocessor(ImgDataPreprocessor):
    """It knows its normalisation, which no config repeats."""

    def __init__(self, mean=tuple(RGB['mean']), std=tuple(RGB['std']), size=None):
        super().__init__(mean, std, bgr_to_rgb=True)


@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_a_class_that_sets_its_own_normalisation_is_asked(side):
    own = dict(_delete_=True, type='mmdistill_dense.OwnPreprocessor')
    options = dict(student=toys.seg_net(), teacher=toys.seg_net(width=16, allow_random=True))
    options[side]['data_preprocessor'] = own
    seen = toys.teacher_of(toys.build(toys.model_config(**options))).plan.renormalise
    zoo = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
    expected = make_renormaliser(*((RGB, zoo) if side == 'student' else (zoo, RGB)))
    x = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(seen(x), expected(x))
