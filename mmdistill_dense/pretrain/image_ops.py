"""Deterministic operations of views on pictures: uint8 RGB arrays (H, W, 3) in, new ones out.

They are Pillow's operations, as the released recipes of BYOL and MoCo v3 use them: a resize that averages what it
shrinks, luma in 16-bit integers, results clipped and truncated to bytes.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

Array = np.ndarray


def crop_resize(image: Array, box: tuple[int, int, int, int], size: tuple[int, int]) -> Array:
    """Cut ``box`` (top, left, height, width) out, then resize it to ``size`` (height, width), bilinear, antialiased.

    Pixels outside of the box do not affect the result, as they would if the resize came first.
    """
    top, left, height, width = box
    part = _picture(image[top : top + height, left : left + width])
    return np.asarray(part.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def adjust_brightness(image: Array, factor: float) -> Array:
    """Scale by ``factor``: 1 changes nothing, 0 gives black."""
    return np.asarray(ImageEnhance.Brightness(_picture(image)).enhance(factor))


def adjust_contrast(image: Array, factor: float) -> Array:
    """Blend with the picture's mean luma, rounded: 1 changes nothing, 0 gives that grey."""
    return np.asarray(ImageEnhance.Contrast(_picture(image)).enhance(factor))


def adjust_saturation(image: Array, factor: float) -> Array:
    """Blend with each pixel's luma: 1 changes nothing, 0 gives a grey picture."""
    return np.asarray(ImageEnhance.Color(_picture(image)).enhance(factor))


def adjust_hue(image: Array, shift: float) -> Array:
    """Turn the hue by ``shift``, a part of the full circle in -0.5 … 0.5, in steps of 1/256 rounded towards 0.

    A shift of 0 still goes through bytes of hue, saturation and value, which moves pixels by a few levels.
    """
    hue, saturation, value = _picture(image).convert('HSV').split()
    turned = np.asarray(hue) + np.uint8(int(255 * shift) % 256)  # wraps around
    return np.asarray(Image.merge('HSV', (Image.fromarray(turned), saturation, value)).convert('RGB'))


def luma(image: Array) -> Array:
    """Return the brightness (H, W): ``(19595 R + 38470 G + 7471 B + 32768) >> 16``."""
    return np.asarray(_picture(image).convert('L'))


def grayscale(image: Array) -> Array:
    """Put the luma in all three channels."""
    return np.repeat(luma(image)[..., None], 3, axis=2)


def gaussian_blur(image: Array, sigma: float) -> Array:
    """Blur by a Gaussian of ``sigma`` pixels, which Pillow composes of box filters."""
    return np.asarray(_picture(image).filter(ImageFilter.GaussianBlur(float(sigma))))


def solarize(image: Array, threshold: int = 128) -> Array:
    """Invert every value that is at least ``threshold``."""
    return np.asarray(ImageOps.solarize(_picture(image), threshold))


JITTERS: dict[str, Callable[[Array, float], Array]] = dict(
    brightness=adjust_brightness, contrast=adjust_contrast, saturation=adjust_saturation, hue=adjust_hue
)


def _picture(image: Array) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image))
