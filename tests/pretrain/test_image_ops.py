"""The operations on pictures, against Pillow's and torchvision's results in the golden file."""

from pathlib import Path

import numpy as np
import pytest

from mmdistill_dense.pretrain import views as image_ops

GOLDEN = Path(__file__).parents[3] / 'shared' / 'golden' / 'pcd' / 'transforms.npz'
# largest and mean difference in grey levels that the file's description allows
ONE_LEVEL, HUE, BLUR, COMPOSITE = (1, 1), (12, 1.5), (255, 1), (255, 2.5)


@pytest.fixture(scope='module')
def golden() -> dict[str, np.ndarray]:
    if not GOLDEN.is_file():
        pytest.skip('the golden files are not beside this checkout (../shared/golden)')
    with np.load(GOLDEN) as file:
        return {name: file[name] for name in file.files}


def close(image: np.ndarray, stored: np.ndarray, allowed: tuple[float, float]) -> bool:
    difference = np.abs(image.astype(int) - stored.astype(int))
    assert image.shape == stored.shape
    assert image.dtype == np.uint8
    return difference.max() <= allowed[0] and difference.mean() <= allowed[1]


@pytest.mark.parametrize('name', ['crop', 'crop_up'])
def test_crop_is_resized_after_it_is_cut_and_with_antialiasing(golden: dict[str, np.ndarray], name: str) -> None:
    box = tuple(golden[f'{name}_box_ijhw'])
    image = image_ops.crop_resize(golden['image_rgb'], box, tuple(golden['crop_size']))
    assert np.array_equal(image, golden[name])


@pytest.mark.parametrize(('name', 'allowed'), [
    ('brightness', ONE_LEVEL), ('contrast', ONE_LEVEL), ('saturation', ONE_LEVEL), ('hue', HUE),
])  # fmt: skip
def test_jitter(golden: dict[str, np.ndarray], name: str, allowed: tuple[float, float]) -> None:
    for number, factor in enumerate(golden[f'{name}_factors']):
        assert close(image_ops.JITTERS[name](golden['crop'], factor), golden[f'{name}_{number}'], allowed)


def test_grey_solarise_and_blur(golden: dict[str, np.ndarray]) -> None:
    crop = golden['crop']
    assert close(image_ops.grayscale(crop), golden['gray'], ONE_LEVEL)
    assert close(image_ops.luma(crop), golden['gray_luma'], ONE_LEVEL)
    assert close(image_ops.solarize(crop), golden['solarize'], ONE_LEVEL)
    for number, sigma in enumerate(golden['blur_sigmas']):
        assert close(image_ops.gaussian_blur(crop, sigma), golden[f'blur_{number}'], BLUR)


def test_all_of_them_in_a_row(golden: dict[str, np.ndarray]) -> None:
    brightness, hue, contrast, saturation, sigma, threshold = golden['composite_params']
    image = image_ops.adjust_hue(image_ops.adjust_brightness(golden['crop'], brightness), hue)
    image = image_ops.adjust_saturation(image_ops.adjust_contrast(image, contrast), saturation)
    image = image_ops.solarize(image_ops.gaussian_blur(image, sigma), int(threshold))
    assert close(image, golden['composite'], COMPOSITE)


def test_what_lies_outside_the_crop_does_not_reach_it() -> None:
    image = np.full((40, 40, 3), 200, np.uint8)
    image[10:30, 10:30] = 50
    assert (image_ops.crop_resize(image, (10, 10, 20, 20), (7, 7)) == 50).all()


def test_luma_is_the_integer_formula() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    red, green, blue = image.astype(int).transpose(2, 0, 1)
    assert np.array_equal(image_ops.luma(image), (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16)


def test_a_third_of_the_circle_turns_red_to_green_and_back_to_blue() -> None:
    red = np.tile(np.array([250, 0, 0], np.uint8), (2, 2, 1))
    assert (image_ops.adjust_hue(red, 1 / 3).argmax(-1) == 1).all()
    assert (image_ops.adjust_hue(red, -1 / 3).argmax(-1) == 2).all()
