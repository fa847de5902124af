"""Pictures of a distiller's taps: one pixel's cosine with all others, and where tokens lie."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor

from mmdistill_dense.apps.inspect.drawing import enlarged, grid, heated, image_of, overlay
from mmdistill_dense.apps.recipes.named import read_config
from mmdistill_dense.config.resolve import model_of
from mmdistill_dense.distillers.base import Distiller, Recorded
from mmdistill_dense.distillers.maskd import ready_distiller
from mmdistill_dense.distillers.maskd.token_distiller import TokenDistiller
from mmdistill_dense.model.distill_model import Distilled, distillers_of
from mmdistill_dense.networks.modes import in_training
from mmdistill_dense.networks.recording import run_parts
from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.registry import DATASETS, MODELS
from mmdistill_dense.utils.reproducible import fork_rng
from mmdistill_dense.weights.strict_load import read_checkpoint, state_dict_of

Point = tuple[int, int]


@dataclass
class SimilarityRow:
    """Cosine maps of one pixel over one image, for one pair of maps."""

    point: Point  # x and y of the pixel in the image
    student: np.ndarray  # float (H, W), enlarged to the image
    teacher: np.ndarray  # the same
    level: str = ''  # names the pair of maps if there are several


@torch.no_grad()
def similarity_rows(
    model: Distilled, distiller: Distiller, image: np.ndarray, points: Sequence[Point]
) -> list[SimilarityRow]:
    """Return the cosine maps of each pixel, level by level, for a BGR image."""
    planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    inputs = model.data_preprocessor(dict(inputs=[planes], data_samples=None), False)['inputs']
    recorder = model.distillation.recorder(model, distiller.student_taps)
    modes = (model.get_submodule(path) for path in model.distillation.traced.modes)
    with in_training(modes), recorder.recording() as student:
        run_parts(model, distiller.student_taps, inputs)
    recorder.check_complete()
    assert distiller.teacher is not None, 'a distiller inside a model has a teacher'
    teacher = distiller.teacher(inputs)
    students, teachers = _maps(student, distiller.student_taps), _maps(teacher, distiller.teacher_taps)
    rows = []
    for point in points:
        for level, (s, t) in enumerate(zip(students, teachers, strict=True)):
            own, other = (cosine_map(x, point, inputs.shape[2:], image.shape[:2]) for x in (s, t))
            rows.append(SimilarityRow(point, own, other, f', level {level}' if len(students) > 1 else ''))
    return rows


def cosine_map(x: Tensor, point: Point, padded: Sequence[int], image: Sequence[int]) -> np.ndarray:
    """Return the cosine of every pixel of a map with the pixel at a point, enlarged to the image."""
    (column, row), (height, width) = point, x.shape[2:]
    column, row = column * width // padded[1], row * height // padded[0]
    unit = F.normalize(x.float(), dim=1)
    cosine = (unit * unit[:, :, row, column, None, None]).sum(1, keepdim=True)
    large = F.interpolate(cosine, tuple(padded), mode='bilinear', align_corners=False)
    return large[0, 0, : image[0], : image[1]].cpu().numpy()


def grid_points(image: np.ndarray, count: int) -> list[Point]:
    height, width = image.shape[:2]
    places = [(2 * k + 1) / (2 * count) for k in range(count)]
    return [(int(x * width), int(y * height)) for y in places for x in places]


def check_points(points: Sequence[Point], image: np.ndarray, name: str) -> None:
    """Raise ValueError if there are no points, or one lies outside of the image."""
    height, width = image.shape[:2]
    if not points:
        raise ValueError('There is no pixel to show: give points, or a grid of at least 1.')
    for x, y in points:
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(f'The pixel x={x}, y={y} is not in {name!r}, which is {width} wide and {height} high.')


def ready_pair(config: Config, checkpoint: str | None = None, name: str | None = None) -> tuple[Distilled, Distiller]:
    """Build the model of a config and load its teacher, and the student from a checkpoint."""
    init_default_scope(config.get('default_scope', 'mmengine'))
    with fork_rng():
        torch.manual_seed(0)
        model = MODELS.build(model_of(config))
    found = distillers_of(model)
    if not found or (name is not None and name not in found):
        known = ', '.join(found) or 'none'
        raise KeyError(f'model.distillers of this config holds no {name or "distiller"}; it has: {known}.')
    distiller = found[name or next(iter(found))]
    assert distiller.teacher is not None, 'a distiller inside a model has a teacher'
    distiller.teacher.load(next(model.parameters()))
    if checkpoint is not None:
        model.load_state_dict(state_dict_of(read_checkpoint(checkpoint), checkpoint))
    model.eval()
    return model, distiller


def pictures_of(config: Config, count: int) -> dict[str, np.ndarray]:
    """Return the first images of a config's test set, else of its training set, as its loading step reads them."""
    if count < 1:
        raise ValueError(f'images must be at least 1, got {count}.')
    loader = config.get('test_dataloader') or config.train_dataloader
    dataset = DATASETS.build(loader.dataset)
    if not hasattr(dataset, 'pipeline'):
        raise ValueError(f'{type(dataset).__name__} has no pipeline of its own to load images: give image files.')
    load = dataset.pipeline.transforms[0]
    indices = range(min(count, len(dataset)))
    return {f'similarity_{index:03d}': load(dataset.get_data_info(index))['img'] for index in indices}


def _maps(recorded: Recorded, taps: Sequence[Tap]) -> list[Tensor]:
    maps = [tensor for tap in taps for tensor in recorded[str(tap)]]
    for tensor in maps:
        if tensor.ndim != 4:
            raise ValueError(
                f'A tap gives {tuple(tensor.shape)}, which is not a (B, C, H, W) map: choose another distiller.'
            )
    return maps


MASK_PANEL, PANEL = 200, 240  # least width of an image in a picture, in pixels


@dataclass
class MaskRow:
    """The masks of one level, or of one of its bands, over one image."""

    title: str  # names both
    image: np.ndarray  # uint8 (H, W, 3), RGB
    masks: np.ndarray  # float (T, H, W) in 0..1, enlarged to the image
    weights: list[float]  # the weight of each mask


def draw_masks(model: Distilled, distiller: TokenDistiller, dataset: Any, out: Path, images: int = 4) -> list[Path]:
    """Write every token's mask over each image, from 0 (blue) to 1 (red); with one map, into one picture."""
    if images < 1:
        raise ValueError(f'images must be at least 1, got {images}.')
    dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
    chosen = range(min(images, len(dataset)))
    rows = [[_mask_panels(row) for row in mask_rows(model, distiller, dataset[index])] for index in chosen]
    if all(len(group) == 1 for group in rows):
        return _write({'masks': [row for (row,) in rows]}, out)
    return _write({f'masks_{index:03d}': group for index, group in enumerate(rows)}, out)


@torch.no_grad()
def mask_rows(model: Distilled, distiller: TokenDistiller, item: dict[str, Any]) -> list[MaskRow]:
    """Return the masks of every level and band for one item of a data set."""
    batch = model.data_preprocessor(dict(inputs=[item['inputs']], data_samples=[item['data_samples']]), False)
    inputs = batch['inputs']
    assert distiller.teacher is not None, 'a distiller inside a model has a teacher'
    recorded = distiller.teacher(inputs)
    maps = [tensor for tap in distiller.teacher_taps for tensor in recorded[str(tap)]]
    image = image_of(item['inputs'])
    height, width = image.shape[:2]
    rows = []
    for place, (level, teacher) in enumerate(zip(distiller.levels, maps, strict=True)):
        for band, (masks, weights) in distiller.drawn_masks(place, teacher).items():
            title = f'{level.name}, {band}' if band else level.name
            large = F.interpolate(masks.float(), inputs.shape[-2:], mode='bilinear', align_corners=False)
            rows.append(MaskRow(title, image, large[0, :, :height, :width].cpu().numpy(), weights[0].tolist()))
    return rows


def _mask_panels(row: MaskRow) -> dict[str, np.ndarray]:
    panels = {row.title: row.image}
    for place, (mask, weight) in enumerate(zip(row.masks, row.weights, strict=True)):
        panels[f'token {place}: {mask.mean():.2f}, p {weight:.2f}'] = overlay(row.image, mask)
    return {title: enlarged(panel, MASK_PANEL) for title, panel in panels.items()}


def draw_similarity(
    model: Distilled, distiller: Distiller, images: dict[str, np.ndarray], out: Path, points: Sequence[Point] | int = 3
) -> list[Path]:
    """Write a picture per image, with a row per pixel: the marked image, the teacher's map, the student's map."""
    rows = {}
    for name, image in images.items():
        chosen = grid_points(image, points) if isinstance(points, int) else list(points)
        check_points(chosen, image, name)
        rows[name] = [_cosine_panels(image[..., ::-1], row) for row in similarity_rows(model, distiller, image, chosen)]
    return _write(rows, out)


def _cosine_panels(image: np.ndarray, row: SimilarityRow) -> dict[str, np.ndarray]:
    panels = {f'x {row.point[0]}, y {row.point[1]}{row.level}': image}
    for name, values in (('teacher', row.teacher), ('student', row.student)):
        panels[f'{name}, from {values.min():.2f}'] = heated(image, values)
    return {title: enlarged(panel, PANEL, row.point) for title, panel in panels.items()}


def _write(pictures: Mapping[str, Sequence[Mapping[str, np.ndarray]]], out: Path) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in pictures.items():
        cv2.imwrite(str(out / f'{name}.png'), grid(rows)[..., ::-1])
    return [out / f'{name}.png' for name in pictures]


def masks_command(args: argparse.Namespace) -> None:
    config = read_config(args.config, args.cfg_options)
    model, distiller = ready_distiller(config, args.tokens, args.checkpoint)
    print(*draw_masks(model, distiller, config.test_dataloader.dataset, args.out, args.images), sep='\n')


def similarity_command(args: argparse.Namespace) -> None:
    config = read_config(args.config, args.cfg_options)
    model, distiller = ready_pair(config, args.checkpoint, args.distiller)
    images = read_pictures(args.files) if args.files else pictures_of(config, args.images)
    print(*draw_similarity(model, distiller, images, args.out, args.points or args.grid), sep='\n')


def read_pictures(files: Sequence[Path]) -> dict[str, np.ndarray]:
    """Return BGR images by the names of their files, numbered where folders hold files of one name."""
    images: dict[str, np.ndarray] = {}
    for file in files:
        image = mmcv.imread(str(file))
        if image is None:
            raise ValueError(f'--files: {str(file)!r} cannot be read as a picture.')
        names = itertools.chain([file.stem], (f'{file.stem}_{number}' for number in itertools.count(2)))
        images[next(name for name in names if name not in images)] = image
    return images
