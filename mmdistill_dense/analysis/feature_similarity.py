"""Cosine maps of one pixel with all others at a distiller's taps, in the teacher and in the student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor

from mmdistill_dense.config.resolve import model_of
from mmdistill_dense.distillers.base import Distiller, Recorded
from mmdistill_dense.model.distill_model import Distilled
from mmdistill_dense.model.distillation import distillers_of
from mmdistill_dense.networks.modes import in_training
from mmdistill_dense.networks.partial_forward import run_parts
from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.registry import DATASETS, MODELS
from mmdistill_dense.utils.random_streams import fork_rng
from mmdistill_dense.weights.strict_load import read_checkpoint, state_dict_of

Point = tuple[int, int]


@dataclass
class SimilarityRow:
    """Cosine maps of one pixel over one image, for one pair of maps.

    Attributes:
        point: x and y of the pixel in the image.
        student: float (H, W), enlarged to the image.
        teacher: The same.
        level: Names the pair of maps if there are several.
    """

    point: Point
    student: np.ndarray
    teacher: np.ndarray
    level: str = ''


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
    """Return the cosine of every pixel of a map with the pixel at a point, enlarged to the image.

    Args:
        x: (1, C, h, w) map.
        point: x and y in the image.
        padded: Height and width of the batch that gave the map, padded right and below.
        image: The same of the image.

    Returns:
        float32 (H, W).
    """
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
    """Build the model of a config and load its teacher, and the student from a checkpoint.

    Args:
        config: A whole config whose model is a ``DistillModel``.
        checkpoint: Of a run of the config. ``None`` shows an untrained student, drawn from a fixed seed.
        name: A distiller of the config. Defaults to its first.

    Returns:
        The model in eval mode, and the distiller.
    """
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
