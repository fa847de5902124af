"""Random views of one picture, for pre-training without labels: the recipe of BYOL and MoCo v3."""

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.dataset import Compose
from mmengine.structures import BaseDataElement
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from mmdistill_dense.registry import TRANSFORMS


def enhance(image: np.ndarray, factor: float, kind: Callable[[Image.Image], Any]) -> np.ndarray:
    """Blend with what Pillow's ``kind`` gives for 0: black, the mean luma, or each pixel's luma; 1 changes nothing."""
    return np.asarray(kind(_picture(image)).enhance(factor))


def adjust_hue(image: np.ndarray, shift: float) -> np.ndarray:
    """Turn the hue by ``shift``, a part of the full circle in -0.5 … 0.5, in steps of 1/256 rounded towards 0.

    A shift of 0 still goes through bytes of hue, saturation and value, which moves pixels by a few levels.
    """
    hue, saturation, value = _picture(image).convert('HSV').split()
    turned = np.asarray(hue) + np.uint8(int(255 * shift) % 256)  # wraps around
    return np.asarray(Image.merge('HSV', (Image.fromarray(turned), saturation, value)).convert('RGB'))


JITTERS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = dict(
    brightness=partial(enhance, kind=ImageEnhance.Brightness),
    contrast=partial(enhance, kind=ImageEnhance.Contrast),
    saturation=partial(enhance, kind=ImageEnhance.Color),
    hue=adjust_hue,
)


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image))


class _ViewTransform(BaseTransform):
    """Base class that changes ``results['img']``, uint8 RGB, with a probability."""

    def __init__(self, prob: float = 1.0) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f'{type(self).__name__}: prob must lie in 0 … 1, got {prob}.')
        self.prob = prob

    def transform(self, results: dict) -> dict:
        """Turn the picture to RGB if it is not; change it with probability ``prob``."""
        image = results['img']
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            problem = f'takes pictures of three channels in bytes, got {image.dtype} {image.shape}'
            remedy = "load them with dict(type='LoadImageFromFile'), without to_float32 and with color_type='color'"
            raise TypeError(f'{type(self).__name__} {problem}: {remedy}.')
        if results.get('channel_order', 'bgr') == 'bgr':
            image, results['channel_order'] = image[..., ::-1], 'rgb'
        results['img'] = self.change(image) if np.random.random() < self.prob else image
        results['img_shape'] = results['img'].shape[:2]
        return results

    def change(self, image: np.ndarray) -> np.ndarray:
        raise NotImplementedError


@TRANSFORMS.register_module()
class RandomResizedCrop(_ViewTransform):
    """Cut a random rectangle out and resize it to ``size``: bilinear, after the crop, averaging where it shrinks.

    Ten tries of a rectangle whose share of the area is uniform in ``scale`` and the logarithm of whose aspect ratio is
    uniform in ``ratio``; if none fits, the largest centred one within the bounds of the ratio.

    Args:
        size: Side, or height and width, of the result in pixels.
        scale: Bounds of the share of the area. Defaults to (0.08, 1).
        ratio: Bounds of width / height. Defaults to (3/4, 4/3).
    """

    def __init__(
        self, size: int | Sequence[int], scale: Sequence[float] = (0.08, 1.0), ratio: Sequence[float] = (3 / 4, 4 / 3)
    ) -> None:
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else (size[0], size[1])
        for name, (low, high), most in (('scale', scale, 1.0), ('ratio', ratio, math.inf)):
            if not 0 < low <= high <= most:
                raise ValueError(f'RandomResizedCrop: {name} must be two increasing bounds above 0, got {low}, {high}.')
        self.scale, self.ratio = (scale[0], scale[1]), (ratio[0], ratio[1])

    def change(self, image: np.ndarray) -> np.ndarray:
        return self.cut(image, self.box(*image.shape[:2]))

    def cut(self, image: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
        """Cut a box out, then resize it; pixels outside have no effect, as they would if the resize came first."""
        top, left, height, width = box
        part = _picture(image[top : top + height, left : left + width])
        return np.asarray(part.resize(self.size[::-1], Image.Resampling.BILINEAR))

    def box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Draw the crop of a picture of that size: top, left, height, width."""
        for _ in range(10):
            area = np.random.uniform(*self.scale) * height * width
            ratio = math.exp(np.random.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return np.random.randint(height - h + 1), np.random.randint(width - w + 1), h, w
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        h, w = min(height, max(1, round(width / ratio))), min(width, max(1, round(height * ratio)))
        return (height - h) // 2, (width - w) // 2, h, w


@TRANSFORMS.register_module()
class ColorJitter(_ViewTransform):
    """Change brightness, contrast, saturation and hue by random amounts, in random order.

    Args:
        brightness, contrast, saturation: ``a`` draws a factor from ``max(0, 1 - a) … 1 + a``. Default to 0.4, 0.4, 0.2.
        hue: ``a`` draws a turn from ``-a … a`` of the circle, at most 0.5. Defaults to 0.1.
        prob: How often. Defaults to 0.8.
    """

    def __init__(
        self,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.2,
        hue: float = 0.1,
        prob: float = 0.8,
    ) -> None:
        super().__init__(prob)
        amounts = dict(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)
        for name, amount in amounts.items():
            if amount < 0 or (name == 'hue' and amount > 0.5):
                raise ValueError(f'ColorJitter: {name} must be 0 or more, hue at most 0.5, got {name}={amount}.')
        self.bounds = {name: (max(0.0, 1 - amount), 1 + amount) for name, amount in amounts.items()}
        self.bounds['hue'] = (-hue, hue)

    def change(self, image: np.ndarray) -> np.ndarray:
        """Apply the four, in random order; an amount of 0 leaves its step out."""
        for name in np.random.permutation(list(self.bounds)):
            low, high = self.bounds[name]
            if low < high:
                image = JITTERS[name](image, np.random.uniform(low, high))
        return image


@TRANSFORMS.register_module()
class RandomGrayscale(_ViewTransform):
    """Replace the colours by ``(19595 R + 38470 G + 7471 B + 32768) >> 16``; ``prob`` is how often, 0.2 by default."""

    def __init__(self, prob: float = 0.2) -> None:
        super().__init__(prob)

    def change(self, image: np.ndarray) -> np.ndarray:
        return np.repeat(np.asarray(_picture(image).convert('L'))[..., None], 3, axis=2)


@TRANSFORMS.register_module()
class GaussianBlur(_ViewTransform):
    """Blur by a Gaussian of random width, which Pillow composes of box filters.

    Args:
        sigma: Bounds of the standard deviation in pixels, whatever the size of the picture. Defaults to (0.1, 2).
        prob: How often: 1 in the first view of the recipe, 0.1 in the second. Defaults to 1.
    """

    def __init__(self, sigma: Sequence[float] = (0.1, 2.0), prob: float = 1.0) -> None:
        super().__init__(prob)
        if not 0 <= sigma[0] <= sigma[1]:
            raise ValueError(f'GaussianBlur: sigma must be two increasing bounds, got {tuple(sigma)}.')
        self.sigma = sigma[0], sigma[1]

    def change(self, image: np.ndarray) -> np.ndarray:
        return np.asarray(_picture(image).filter(ImageFilter.GaussianBlur(np.random.uniform(*self.sigma))))


@TRANSFORMS.register_module()
class Solarize(_ViewTransform):
    """Invert every value that reaches a threshold.

    Args:
        threshold: The first value that is inverted. Defaults to 128.
        prob: How often: 0 in the first view of the recipe, 0.2 in the second. Defaults to 0.2.
    """

    def __init__(self, threshold: int = 128, prob: float = 0.2) -> None:
        super().__init__(prob)
        self.threshold = threshold

    def change(self, image: np.ndarray) -> np.ndarray:
        return np.asarray(ImageOps.solarize(_picture(image), self.threshold))


@TRANSFORMS.register_module()
class MultiView(BaseTransform):
    """Send copies of one picture through several pipelines; ``results['views']`` holds what comes out, in order.

    Args:
        views: One pipeline, a list of transforms, for each view.
    """

    def __init__(self, views: Sequence[Sequence[Any]]) -> None:
        if not views:
            raise ValueError('MultiView: views must hold one pipeline for each view, got none.')
        self.pipelines = [Compose(list(view)) for view in views]

    def transform(self, results: dict) -> dict | None:
        """Make the views; return ``None`` if one fails."""
        views = [pipeline(copy.deepcopy(results)) for pipeline in self.pipelines]
        return None if any(view is None for view in views) else {**results, 'views': views}


@TRANSFORMS.register_module()
class PackViews(BaseTransform):
    """Pack ``inputs``, a uint8 tensor (3, H, W) per view or, without ``MultiView``, a single one, and a data sample.

    The tensors are BGR, as mm preprocessors expect (``bgr_to_rgb=True``). The data sample keeps the file's name and the
    size of the picture.
    """

    def transform(self, results: dict) -> dict:
        meta = {key: results[key] for key in ('img_path', 'ori_shape') if key in results}
        views = results.get('views')
        inputs = self._tensor(results) if views is None else [self._tensor(view) for view in views]
        return dict(inputs=inputs, data_samples=BaseDataElement(metainfo=meta))

    @staticmethod
    def _tensor(results: dict) -> torch.Tensor:
        image = results['img']
        if results.get('channel_order') == 'rgb':
            image = image[..., ::-1]
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))  # (3, H, W)
