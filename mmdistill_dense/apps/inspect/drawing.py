"""Pictures for people: inputs as pictures, with labels or predictions drawn on them."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import torch
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mmdistill_dense.utils.files import write_whole
from mmdistill_dense.utils.validate import size_text

_FILE = str(Path(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf'))
CONFIDENT = 0.3  # score above which a box is drawn


def image_of(inputs: Tensor) -> np.ndarray:
    """Return an input of a network (C, H, W), BGR or grey, of bytes or floats, as RGB (H, W, 3) uint8."""
    image = inputs.permute(1, 2, 0).clamp(0, 255).to(torch.uint8).numpy()[..., 2::-1]
    return np.ascontiguousarray(image) if image.shape[2] == 3 else np.repeat(image, 3, 2)  # grey


def write_picture(picture: np.ndarray, file: Path) -> None:
    """Write a picture (BGR, or of one channel); ``cv2.imwrite`` tells no error, and dies of a name that is no UTF-8."""
    ending = file.suffix.lower().replace('.jfif', '.jpg')
    done, code = cv2.imencode(ending, picture)
    if not done:
        raise ValueError(f'{file}: OpenCV cannot write {size_text(picture.shape[:2])} pixels as {ending}.')
    write_whole(file, code.tobytes(), lasting=False)


def shrink(image: np.ndarray, side: int) -> np.ndarray:
    """Return an image with no side longer than that many pixels."""
    scale = side / max(image.shape[:2])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image


def draw(picture: np.ndarray, sample: Any, meta: Mapping[str, Any], which: str, least: float = 0) -> np.ndarray:
    """Return a picture (RGB) with the ``'gt'`` or ``'pred'`` of a sample: labels half and half, or objects by scores.

    mmseg's and mmdet's visualizers would draw each picture by a figure of matplotlib, slower than small networks.
    """
    classes, palette = meta.get('classes'), meta.get('palette') or [(0, 255, 0)]
    if f'{which}_instances' not in sample:
        labels = getattr(sample, f'{which}_sem_seg').data[0].cpu().numpy()
        colours = np.array([*palette, (0, 0, 0)], np.uint8)  # black where nothing is labelled
        colours = colours.take(labels.astype(np.uint16), 0, mode='clip')
        return (picture & colours) + ((picture ^ colours) >> 1)  # the mean of two bytes, rounded down
    instances = getattr(sample, f'{which}_instances')
    instances = instances[instances.scores >= least].cpu().numpy() if 'scores' in instances else instances.cpu().numpy()
    shades = [tuple(map(int, palette[int(label) % len(palette)])) for label in instances.labels]
    masks: Any = instances.masks if 'masks' in instances else ()
    masks = [mask.astype(bool) for mask in (masks.to_ndarray() if hasattr(masks, 'to_ndarray') else masks)]
    boxes = getattr(instances, 'bboxes', ())
    boxes = np.nan_to_num(getattr(boxes, 'tensor', boxes))  # of mmdet's own type where they are labels
    if masks and not boxes.any():  # SOLO finds none
        sides = np.array([cv2.boundingRect(mask.astype(np.uint8)) for mask in masks])
        boxes = np.concatenate([sides[:, :2], sides[:, :2] + sides[:, 2:]], 1)
    height, width = picture.shape[:2]
    boxes = np.round(boxes.reshape(-1, 4)).clip(0, (width - 1, height - 1) * 2).astype(int)
    picture = picture.copy()
    for mask, shade in zip(masks, shades, strict=False):  # half and half, with a white outline
        picture[mask] = (picture[mask] + np.array(shade, np.uint16)) >> 1
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, (255, 255, 255))
    for box, shade in zip(boxes, shades, strict=True):
        cv2.rectangle(picture, box[:2].tolist(), box[2:].tolist(), shade, 2)
    is_plain = 'scores' not in instances and len(classes or ()) == 1  # the only name would hide small objects
    for number, (left, top, right, low) in enumerate(() if is_plain else boxes):  # over all boxes
        label = instances.labels[number]
        name = shown_name(classes[label] if classes else '', label)
        text = f'{name}: {100 * instances.scores[number]:.1f}' if 'scores' in instances else str(name)
        size = min(18, min(width, height) / 25) * min(1, 0.5 + (right - left) * (low - top) / 3e4)
        write_on(picture, text, max(8, round(size)), left + 2, top + 2)
    return picture


def write_on(picture: np.ndarray, text: str, size: int, left: int, top: int) -> None:
    """Write a light text on a dark ground."""
    light = _letters(text, size)
    ground = picture[top : top + light.shape[0], left : left + light.shape[1]]
    light = light[: ground.shape[0], : ground.shape[1], None]
    ground[:] = 0.2 * (1 - light) * ground + 200 * light


@lru_cache(1000)
def _letters(text: str, size: int) -> np.ndarray:
    """Return how much of each pixel a text covers (OpenCV writes ASCII alone)."""
    font = ImageFont.truetype(_FILE, size)
    bitmap = Image.new('L', [int(side) + 2 for side in font.getbbox(text)[2:]])
    ImageDraw.Draw(bitmap).text((1, 0), text, 255, font)
    return np.asarray(bitmap, np.float32) / 255


@lru_cache
def shown_name(name: str, number: int) -> str:
    """Return the name of a class, or its number where the font lacks characters of it; it has none of Chinese."""
    return name if name and {*map(ord, name)} <= FT2Font(_FILE).get_charmap().keys() else f'class {number}'
