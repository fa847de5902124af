"""A teacher that sees larger, smaller or padded pictures gives maps that still cover the whole picture."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdistill_dense.networks.inputs import InputGrid, cells
from tests import toys
from tests.foundation import files

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


@settings(max_examples=200, deadline=None)
@given(sides, sides, patches, st.sampled_from([0.25, 0.5, 0.75, 1.0, 1.5, 2.0]))
def test_resized_cells_lie_where_their_map_says(height, width, patch, scale):
    if math.prod(cells(torch.empty(1, 1, height, width), patch, scale)) < 4:
        return
    found = seen(ramp(height, width), patch, scale)
    h, w = found.shape[2:]
    assert (h, w) == tuple(max(1, int(scale * side / patch + 0.5)) for side in (height, width))
    error = place_error(found, height, width)
    inner = error[:, 1 : h - 1, 1 : w - 1]  # there is nothing to interpolate beyond the border
    assert inner.numel() == 0 or inner.max() < 1e-3


@settings(max_examples=100, deadline=None)
@given(sides, sides, patches)
def test_padded_cells_lie_where_their_map_says(height, width, patch):
    found = seen(ramp(height, width), patch, fit='pad')
    # A cell that is partly padding, or whose neighbour is, is no mean of the picture's own pixels.
    h, w = (side // patch - 1 for side in (height, width))
    error = place_error(found, height, width)[:, 1 : max(h, 1), 1 : max(w, 1)]
    assert error.numel() == 0 or error.max() < 0.01


def place_error(found, height, width):
    """How far, in pixels, the cells of a map lie from where an even grid over the picture has them."""
    h, w = found.shape[2:]
    rows, columns = (torch.arange(h) + 0.5) * height / h, (torch.arange(w) + 0.5) * width / w
    return (found[0] - torch.stack(torch.meshgrid(rows, columns, indexing='ij'))).abs()


def test_whole_patches_are_left_as_they_are():
    pictures = torch.rand(1, 3, 28, 42)
    for fit in ('resize', 'pad'):
        assert torch.equal(InputGrid(1.0, fit, 14)(pictures), pictures)


def test_padding_is_the_mean_colour_and_tensors_that_are_no_maps_stay():
    grid = InputGrid(1.0, 'pad', 14)
    padded = grid(torch.ones(1, 3, 20, 30))
    assert padded.shape == (1, 3, 28, 42) and padded[..., 20:, :].abs().sum() == padded[..., 30:].abs().sum() == 0
    vectors = torch.rand(1, 6)
    assert grid.restored({'cls': [vectors]}, (20, 30))['cls'][0] is vectors


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


def vit(**changes):
    """A small vision transformer as teacher."""
    kind = dict(type='mmdistill_dense.FoundationTeacher', model=files.tiny('dinov2'), allow_random=True)
    return dict(kind, **changes)


def test_padding_needs_a_multiple_and_covers_the_picture():
    with pytest.raises(ValueError, match=r"fit='pad': nothing says to which multiple .*size_divisor=32"):
        toys.frozen(toys.seg_net('fcn', allow_random=True, fit='pad'), 'backbone[3]')
    divided = toys.seg_teacher('fcn', fit='pad', data_preprocessor=dict(size=None, size_divisor=32))
    frozen = toys.frozen(divided, 'backbone[3]')
    frozen.load(torch.zeros(1))
    assert frozen(torch.randn(1, 3, 50, 70))['backbone[3]'][0].shape[2:] == (6, 9)


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
        found = frozen(pictures)[tap][0]
        assert found.shape[2:] == tuple(round(side * scale / stride) for side in (128, 192))
        resized = F.interpolate(pictures, scale_factor=scale, mode='bilinear')  # by half: the mean of four
        if stride != 14:
            direct = toys.frozen({name: value for name, value in teacher.items() if name != 'scale'}, tap)
            direct.load(torch.zeros(1))
            torch.testing.assert_close(found, direct(resized)[tap][0], atol=1e-4, rtol=1e-4)


def test_a_student_trains_with_a_scaled_teacher():
    for teacher in (toys.seg_teacher('fcn', scale=1.5), vit(scale=1.5), vit(fit='pad')):
        tap = 'map' if 'model' in teacher else 'backbone[3]'
        match = dict(type='PKD', student_tap='backbone[3]', teacher_tap=tap)
        model = toys.distilled(student=toys.seg_net('fcn'), teacher=teacher, distillers=dict(d=match))
        toys.total(toys.losses_of(model)).backward()
        assert model.backbone.stem[0].weight.grad.abs().sum() > 0


def test_methods_that_call_the_teachers_heads_need_one_size():
    for option in (dict(scale=0.5), dict(fit='pad')):
        teacher = toys.merged(toys.det_net('gfl', allow_random=True), option)
        with pytest.raises(ValueError, match=r'LD runs the teacher on places .* leave model.teacher.scale and'):
            toys.distilled('mmdet', student=toys.det_net('gfl'), teacher=teacher, distillers=dict(d=dict(type='LD')))
