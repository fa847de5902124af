"""Pictures of a distiller's taps: one pixel's cosine with all others, and where tokens lie."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
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
from mmengine.visualization import Visualizer
from torch import Tensor
from torch.nn.functional import interpolate

from mmdistill_dense.apps.recipes.named import read_config
from mmdistill_dense.config.resolve import model_of
from mmdistill_dense.distillers import MasKD
from mmdistill_dense.distillers.base import Distiller, Recorded
from mmdistill_dense.distillers.maskd import ready_distiller
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
    """Return the centres of ``count`` x ``count`` equal parts of an image, row by row."""
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
                f'A tap of this distiller gives {tuple(tensor.shape)}, which is not a (B, C, H, W) map: choose a '
                'distiller of feature maps.'
            )
    return maps


MASK_PANEL = 200  # least width of one image in a picture, in pixels
HEAD = 22  # height of a line of text above it
OPACITY = 0.6


@dataclass
class MaskRow:
    """The masks of one level over one image."""

    title: str  # names the level
    image: np.ndarray  # uint8 (H, W, 3), RGB
    masks: np.ndarray  # float (T, H, W) in 0..1, enlarged to the image
    weights: list[float]  # the weight of each mask


def draw_masks(model: Distilled, distiller: MasKD, dataset: Any, out: Path, images: int = 4) -> list[Path]:
    """Write a picture per image of every token's mask over it: a column per token, a row per level.

    With a single level, all images are the rows of one picture. Red is a mask of 1, blue of 0, on the same scale
    everywhere; above each panel stand the mean of the mask over the image and its weight p.
    """
    if images < 1:
        raise ValueError(f'images must be at least 1, got {images}.')
    dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
    rows = [mask_rows(model, distiller, dataset[index]) for index in range(min(images, len(dataset)))]
    single = len(distiller.levels) == 1
    groups = [('masks', [one for group in rows for one in group])] if single else []
    groups = groups or [(f'masks_{index:03d}', group) for index, group in enumerate(rows)]
    out.mkdir(parents=True, exist_ok=True)
    files = [out / f'{name}.png' for name, _ in groups]
    for path, (_, group) in zip(files, groups, strict=True):
        cv2.imwrite(str(path), draw_grid(group)[..., ::-1])
    return files


@torch.no_grad()
def mask_rows(model: Distilled, distiller: MasKD, item: dict[str, Any]) -> list[MaskRow]:
    """Return the masks of every level for one item of a data set."""
    batch = model.data_preprocessor(dict(inputs=[item['inputs']], data_samples=[item['data_samples']]), False)
    inputs = batch['inputs']
    assert distiller.teacher is not None, 'a distiller inside a model has a teacher'
    recorded = distiller.teacher(inputs)
    maps = [tensor for tap in distiller.teacher_taps for tensor in recorded[str(tap)]]
    image = item['inputs'].numpy().transpose(1, 2, 0)[..., ::-1]  # loaders give BGR
    height, width = image.shape[:2]
    rows = []
    for level, masks, weights in zip(
        distiller.levels, distiller.masks(maps), distiller.mask_weights(maps), strict=True
    ):
        large = interpolate(masks.float(), inputs.shape[-2:], mode='bilinear', align_corners=False)
        rows.append(MaskRow(level.name, image, large[0, :, :height, :width].cpu().numpy(), weights[0].tolist()))
    return rows


def draw_grid(rows: Sequence[MaskRow]) -> np.ndarray:
    """Draw rows of masks, the image itself first, with mmengine's visualizer; return uint8 (H, W, 3), RGB."""
    lines = [_line(row) for row in rows]
    width = max(line.shape[1] for line, _ in lines)
    canvas = np.full((sum(line.shape[0] for line, _ in lines), width, 3), 255, np.uint8)
    texts, places, top = [], [], 0
    for line, titles in lines:
        canvas[top : top + line.shape[0], : line.shape[1]] = line
        step = line.shape[1] // len(titles)
        texts += titles
        places += [[column * step + 3, top + 3] for column in range(len(titles))]
        top += line.shape[0]
    visualizer = Visualizer(image=canvas)
    visualizer.draw_texts(texts, np.asarray(places), font_sizes=9, colors='black')
    return visualizer.get_image()


def overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return an image (H, W, 3) under a mask (H, W) of 0 (blue) to 1 (red), uint8."""
    heat = cv2.applyColorMap((mask.clip(0, 1) * 255).astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1]
    return (OPACITY * heat + (1 - OPACITY) * image).astype(np.uint8)


def enlarged(panel: np.ndarray, scale: int) -> np.ndarray:
    """Enlarge an image by a whole number and frame it, with room for a title above."""
    size = (panel.shape[1] * scale, panel.shape[0] * scale)
    large = cv2.resize(np.ascontiguousarray(panel), size, interpolation=cv2.INTER_LINEAR)
    return cv2.copyMakeBorder(large, HEAD, 4, 2, 2, cv2.BORDER_CONSTANT, value=(255, 255, 255))


def _line(row: MaskRow) -> tuple[np.ndarray, list[str]]:
    """Return a row of panels with room for a title above each, and the titles."""
    panels = [row.image, *(overlay(row.image, mask) for mask in row.masks)]
    scale = max(1, -(-MASK_PANEL // row.image.shape[1]))
    weights = zip(row.masks, row.weights, strict=True)
    titles = [f'token {i}: {mask.mean():.2f}, p {weight:.2f}' for i, (mask, weight) in enumerate(weights)]
    return np.concatenate([enlarged(panel, scale) for panel in panels], 1), [row.title, *titles]


PANEL = 240  # least width of one image in a picture, in pixels


def draw_similarity(
    model: Distilled, distiller: Distiller, images: dict[str, np.ndarray], out: Path, points: Sequence[Point] | int = 3
) -> list[Path]:
    """Write a picture per image, with a row per pixel: the marked image, the teacher's map, the student's map.

    Colours run from the smallest cosine of a panel (blue), which is written above it, to 1 (red).
    """
    out.mkdir(parents=True, exist_ok=True)
    visualizer, files = Visualizer(), list[Path]()
    for name, image in images.items():
        chosen = grid_points(image, points) if isinstance(points, int) else list(points)
        check_points(chosen, image, name)
        rows = similarity_rows(model, distiller, image, chosen)
        files.append(out / f'{name}.png')
        draw_rows(visualizer, image, rows, files[-1])
    return files


def draw_rows(visualizer: Visualizer, image: np.ndarray, rows: Sequence[SimilarityRow], path: Path) -> None:
    """Draw rows of panels with mmengine's visualizer, and write the picture."""
    rgb = image[..., ::-1]
    scale = max(1, -(-PANEL // image.shape[1]))
    lines, texts, places, marks = [], [], [], []
    for number, row in enumerate(rows):
        panels = [enlarged(panel, scale) for panel in (rgb, heated(rgb, row.teacher), heated(rgb, row.student))]
        height, width = panels[0].shape[:2]
        lines.append(np.concatenate(panels, 1))
        names = (f'x {row.point[0]}, y {row.point[1]}{row.level}', 'teacher', 'student')
        for column, name in enumerate(names):
            lowest = (row.teacher, row.student)[column - 1].min()
            texts.append(name if column == 0 else f'{name}, from {lowest:.2f}')
            places.append([column * width + 3, number * height + 3])
            x, y = ((place + 0.5) * scale for place in row.point)
            marks.append([column * width + 2 + x, number * height + HEAD + y])
    visualizer.set_image(np.concatenate(lines))
    visualizer.draw_texts(texts, np.asarray(places), font_sizes=9, colors='black')
    radius = torch.full((len(marks),), 5.0)
    visualizer.draw_circles(np.asarray(marks), radius, edge_colors='white', line_widths=2)
    cv2.imwrite(str(path), visualizer.get_image()[..., ::-1])


def heated(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return an RGB image under colours from its smallest value (blue) to 1 (red), uint8."""
    lowest = values.min()
    return overlay(image, (values - lowest) / max(1 - lowest, 1e-6))


def masks_command(args: argparse.Namespace) -> None:
    """Draw the masks of MasKD's tokens."""
    config = read_config(args.config, args.cfg_options)
    model, distiller = ready_distiller(config, args.tokens, args.checkpoint)
    print(*draw_masks(model, distiller, config.test_dataloader.dataset, args.out, args.images), sep='\n')


def similarity_command(args: argparse.Namespace) -> None:
    """Draw what the command line asks for."""
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
