"""Pictures of one pixel's cosine with all others, in the teacher and in the student, side by side."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmengine.visualization import Visualizer

from mmdistill_dense.analysis.feature_similarity import (
    Point,
    SimilarityRow,
    check_points,
    grid_points,
    pictures_of,
    ready_pair,
    similarity_rows,
)
from mmdistill_dense.analysis.mask_pictures import HEAD, enlarged, overlay
from mmdistill_dense.config.options_action import OptionsAction
from mmdistill_dense.distillers.base import Distiller
from mmdistill_dense.model.distill_model import Distilled
from mmdistill_dense.recipes.named import read_config

PANEL = 240  # least width of one image in a picture, in pixels


def draw_similarity(
    model: Distilled, distiller: Distiller, images: dict[str, np.ndarray], out: Path, points: Sequence[Point] | int = 3
) -> list[Path]:
    """Write a picture per image, with a row per pixel: the marked image, the teacher's map, the student's map.

    Colours run from the smallest cosine of a panel (blue), which is written above it, to 1 (red).

    Args:
        model: A distilled model with its teacher loaded, see :func:`ready_pair`.
        distiller: The one whose taps are shown.
        images: uint8 (H, W, 3) BGR images by name.
        out: Folder for the pictures.
        points: x and y of pixels, the same in all images; or n for a grid of n x n.

    Returns:
        The files written, ``<name>.png``.
    """
    out.mkdir(parents=True, exist_ok=True)
    visualizer = Visualizer(vis_backends=[dict(type='LocalVisBackend')], save_dir=str(out))
    files = []
    for name, image in images.items():
        chosen = grid_points(image, points) if isinstance(points, int) else list(points)
        check_points(chosen, image, name)
        rows = similarity_rows(model, distiller, image, chosen)
        files.append(out / f'{name}.png')
        draw_rows(visualizer, image, rows, files[-1])
    return files


def draw_rows(visualizer: Visualizer, image: np.ndarray, rows: Sequence[SimilarityRow], path: Path) -> None:
    """Draw rows of panels through mmengine's visualizer, and write the picture.

    Args:
        visualizer: Draws texts and marks, and hands the picture to its backends.
        image: uint8 (H, W, 3) BGR.
        rows: What to draw.
        path: File to write.
    """
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
    picture = visualizer.get_image()
    visualizer.add_image(path.stem, picture)
    cv2.imwrite(str(path), picture[..., ::-1])


def heated(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return an RGB image under colours from its smallest value (blue) to 1 (red), uint8."""
    lowest = values.min()
    return overlay(image, (values - lowest) / max(1 - lowest, 1e-6))


def add_similarity(commands: Any) -> None:
    """Add ``similarity`` to the subcommands of a parser."""
    command: argparse.ArgumentParser = commands.add_parser(
        'similarity', help='cosine of a pixel with all others, teacher and student side by side'
    )
    command.add_argument('config', help='config of a distilled model, of pre-training or of a segmentor or detector')
    command.add_argument('--checkpoint', help='checkpoint of a run of the config; without it, the untrained student')
    command.add_argument('--distiller', help='distiller whose taps are shown; default: the first')
    command.add_argument('--files', nargs='+', type=Path, help='image files; default: from the test or training set')
    command.add_argument('--images', type=int, default=4, help='number of images of the set')
    where = command.add_mutually_exclusive_group()
    where.add_argument('--points', nargs='+', type=_point, metavar='X,Y', help='pixels of the image')
    where.add_argument('--grid', type=int, default=3, help='n for a grid of n x n pixels')
    command.add_argument('--out', type=Path, default=Path('work_dirs/similarity'), help='folder for the pictures')
    command.add_argument('--cfg-options', nargs='+', action=OptionsAction, help='overrides: key=value')
    command.set_defaults(run=run_similarity)


def run_similarity(args: argparse.Namespace) -> list[Path]:
    """Draw what the command line asks for."""
    config = read_config(args.config, args.cfg_options)
    model, distiller = ready_pair(config, args.checkpoint, args.distiller)
    images = read_pictures(args.files) if args.files else pictures_of(config, args.images)
    return draw_similarity(model, distiller, images, args.out, args.points or args.grid)


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


def _point(text: str) -> Point:
    try:
        x, y = (int(part) for part in text.split(','))
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is not a pixel: write X,Y, e.g. 120,80') from None
    return x, y
