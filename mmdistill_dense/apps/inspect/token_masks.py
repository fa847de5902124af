"""Sheets of the masks that the tokens of MasKD and FreeKD make of pictures."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.logging import print_log

from mmdistill_dense.apps.inspect.drawing import image_of, shrink, write_on, write_picture
from mmdistill_dense.distillers.maskd.token_distiller import TokenDistiller
from mmdistill_dense.utils.runner_internals import Network
from mmdistill_dense.utils.sampling import evenly_spaced

_SIDE = 240  # longest side of a picture on a sheet
_GAP = 4  # pixels between pictures
_LETTERS = 12  # height of a title


def write_mask_sheets(
    model: Network, distillers: Mapping[str, TokenDistiller], dataset: Any, folder: Path, count: int
) -> list[Path]:
    """Write a sheet for each method and each of some pictures that lie evenly in a data set; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index in evenly_spaced(len(dataset), count):
        sample = dataset[index]
        name = Path(getattr(sample['data_samples'], 'img_path', '') or f'{index}').stem
        for method, distiller in distillers.items():
            files.append(folder / f'{method}-{index:05}-{name}.png')
            write_picture(mask_sheet(model, distiller, sample)[..., ::-1], files[-1])
    print_log(f'{folder}: {len(files)} sheets; brightness is the value of a mask, from 0 to 1', 'current')
    return files


def mask_sheet(model: Network, distiller: TokenDistiller, sample: Mapping[str, Any]) -> np.ndarray:
    """Return a picture (RGB) with a row for each map of the teacher, and in it a column for each token.

    ``sample`` is an entry of a data set behind its pipeline. A method whose tokens mask several bands of a map has a
    row for each band.
    """
    picture, rows = shrink(image_of(sample['inputs']), _SIDE), list[np.ndarray]()
    border = ((0, _GAP), (0, _GAP), (0, 0))
    for title, masks in masks_of_sample(model, distiller, sample):
        cells = [picture.copy(), *(draw_mask(picture, mask) for mask in masks)]
        write_on(cells[0], title, _LETTERS, 2, 2)
        rows.append(np.hstack([np.pad(cell, border, constant_values=255) for cell in cells]))
    return np.vstack(rows)


@torch.no_grad()
def masks_of_sample(
    model: Network, distiller: TokenDistiller, sample: Mapping[str, Any]
) -> Iterator[tuple[str, Sequence[np.ndarray]]]:
    """Yield the name of each map, or of each band of it, and its masks (h, w) without the padding of the picture."""
    assert distiller.teacher is not None, 'the model sets it'
    height, width = sample['inputs'].shape[1:]
    batch: Any = {'inputs': [sample['inputs']], 'data_samples': [sample['data_samples']]}
    batch = model.data_preprocessor(batch, False)
    inputs = batch['inputs']  # (1, 3, H, W), padded
    maps = distiller.teacher(inputs, samples=batch['data_samples'])
    tokens, levels = distiller.mask_modules.state_dict(), len(distiller.mask_modules)
    taps = [(tap.text, index) for tap in distiller.teacher_taps for index in range(len(maps[tap.text]))]
    for level, (tap, index) in enumerate(taps):
        _, bands = type(distiller).gate(tokens, level % levels, maps[tap][index])
        for number, masks in enumerate(bands):  # (1, T, h, w)
            title = f'{tap}: {index}' if len(maps[tap]) > 1 else tap
            title += f', band {number}' if len(bands) > 1 else ''
            enlarged = [cv2.resize(mask.float().cpu().numpy(), inputs.shape[:1:-1]) for mask in masks[0]]  # (H, W)
            yield title, [mask[:height, :width] for mask in enlarged]


def draw_mask(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return a mask as colours over a grey picture (RGB).

    Colours are of the mask's own values. mmengine's ``draw_featmap`` would stretch each mask to the whole range, and a
    mask that is the same everywhere would look like one that has learned something.
    """
    shades = cv2.resize((255 * mask).astype(np.uint8), picture.shape[1::-1], interpolation=cv2.INTER_AREA)
    colours = cv2.applyColorMap(shades, cv2.COLORMAP_VIRIDIS)[..., ::-1]
    return (0.35 * picture.mean(2, keepdims=True) + 0.65 * colours).astype(np.uint8)
