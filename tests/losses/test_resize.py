import pytest
import torch
import torch.nn.functional as F

from mmdistill_dense.losses import centres_inside, to_grid


def test_a_map_of_the_size_is_returned_as_it_is() -> None:
    x = torch.randn(1, 2, 3, 4)
    assert to_grid(x, (3, 4)) is x


@pytest.mark.parametrize('size', [(3, 2), (2, 4), (1, 1)])
def test_smaller_grids_average(size: tuple[int, int]) -> None:
    x = torch.randn(1, 2, 6, 4)
    torch.testing.assert_close(to_grid(x, size), F.adaptive_avg_pool2d(x, size))


@pytest.mark.parametrize('size', [(7, 4), (3, 5), (12, 8)])
def test_a_grid_larger_on_one_axis_interpolates(size: tuple[int, int]) -> None:
    x = torch.randn(1, 2, 6, 4)
    torch.testing.assert_close(to_grid(x, size), F.interpolate(x, size, mode='bilinear', align_corners=False))


def test_a_pixel_is_inside_when_its_centre_is() -> None:
    """A map of 4 x 4 for a batch of 32 x 32 pixels: centres at 4, 12, 20, 28."""
    inside = centres_inside([(32, 32), (20, 21), (4, 5)], (32, 32), (4, 4))
    assert inside.shape == (3, 4, 4) and inside[0].all()
    assert inside[1].sum() == 2 * 3 and inside[1, :2, :3].all()
    assert not inside[2].any()  # the centre lies on the edge of the image


def test_channels_of_an_image_shape_are_ignored() -> None:
    assert torch.equal(centres_inside([(20, 20, 3)], (32, 32), (4, 4)), centres_inside([(20, 20)], (32, 32), (4, 4)))
