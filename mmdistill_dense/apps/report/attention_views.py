"""Masks of MasKD's tokens, and the similarity of a pixel to all others (PCD)."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np

from mmdistill_dense.apps.inspect.drawing import enlarged, heated, overlay
from mmdistill_dense.apps.inspect.similarity import (
    MaskRow,
    Point,
    SimilarityRow,
    mask_rows,
    pictures_of,
    ready_pair,
    similarity_rows,
)
from mmdistill_dense.apps.report.predictions import scenes_of
from mmdistill_dense.apps.report.runs import Comparison, TrainedRun
from mmdistill_dense.apps.report.section import Group, Section, panel
from mmdistill_dense.distillers.base import Distiller
from mmdistill_dense.distillers.maskd import ready_distiller
from mmdistill_dense.model.distill_model import Distilled
from mmdistill_dense.weights.strict_load import read_checkpoint, state_dict_of

LEVELS = 2  # pairs of maps for which similarity is drawn
_PLACES = ((0.5, 0.7), (0.25, 0.35))  # of the marked pixels, as fractions of width and height


def token_section(comparison: Comparison, pictures: int) -> Section:
    """Return the token masks of each run with a MasKD, over one picture."""
    section = Section(
        'tokens',
        'Receptive tokens',
        'Where the mask of each token lies: red is 1, blue is 0. Captions: its mean over the picture and its weight p.',
    )
    for run in _asked(section, comparison, 'MasKD', pictures):
        section.attempt(partial(_token_groups, run), f'{run.title}: ')
    return section


def _asked(section: Section, comparison: Comparison, method: str, pictures: int) -> list[TrainedRun]:
    """Return the runs with a method; add a reason to the section if there are none."""
    runs = [run for run in comparison.shown if _of_type(run, method)]
    if not runs:
        section.reasons.append(f'Nothing to show: no run has a {method}.')
    elif not pictures:
        section.reasons.append('Pictures were switched off (--pictures 0).')
    return runs if pictures else []


def _token_groups(run: TrainedRun) -> list[Group]:
    model, distiller = ready_distiller(copy.deepcopy(run.config), checkpoint=str(run.checkpoint))
    (scene,) = scenes_of(run, 1).pictures
    return [_masks(run, scene.name, row) for row in mask_rows(model, distiller, scene.item)]


def _masks(run: TrainedRun, scene: str, row: MaskRow) -> Group:
    panels = []
    for place, (mask, weight) in enumerate(zip(row.masks, row.weights, strict=True)):
        caption = f'token {place}: {mask.mean():.2f}, p {weight:.2f}'
        panels.append(panel(overlay(row.image, mask), caption, f'Mask of token {place} over {scene}, {row.title}'))
    return Group(f'{run.title}, {row.title}', panels)


def similarity_section(comparison: Comparison, pictures: int) -> Section:
    """Return cosine maps of each run with a PCD, and of its control if that has the same student."""
    section = Section(
        'similarity',
        'Similarity of pixels',
        'The cosine of the marked pixel with all others, in the compared maps: red is 1, blue the smallest value.',
    )
    for run in _asked(section, comparison, 'PCD', pictures):
        section.attempt(partial(_similarity_groups, run, comparison.control_of(run)), f'{run.title}: ')
    return section


def _similarity_groups(run: TrainedRun, control: TrainedRun | None) -> list[Group]:
    config = copy.deepcopy(run.config)
    model, distiller = ready_pair(config, str(run.checkpoint), _of_type(run, 'PCD'))
    (image,) = pictures_of(config, 1).values()
    points = [(int(x * image.shape[1]), int(y * image.shape[0])) for x, y in _PLACES]
    after = similarity_rows(model, distiller, image, points)
    before = _before(model, distiller, image, points, control)
    rows = [(row, before[place] if before else None) for place, row in enumerate(after)]
    levels = len(after) // len(points)
    kept = [pair for place, pair in enumerate(rows) if place % levels < LEVELS]
    return [_maps(run, control, image[..., ::-1], row, alone) for row, alone in kept]


def _before(
    model: Distilled, distiller: Distiller, image: np.ndarray, points: list[Point], control: TrainedRun | None
) -> list[SimilarityRow] | None:
    path = control.checkpoint if control else None
    if path is None:
        return None
    try:
        model.load_state_dict(state_dict_of(read_checkpoint(path), path))
    except (RuntimeError, ValueError):  # another student without these maps
        return None
    return similarity_rows(model, distiller, image, points)


def _maps(
    run: TrainedRun, control: TrainedRun | None, image: np.ndarray, row: SimilarityRow, alone: SimilarityRow | None
) -> Group:
    x, y = row.point
    marked = enlarged(image, 1, row.point)
    panels = [panel(marked, f'pixel x {x}, y {y}', f'The picture with the pixel x {x}, y {y} marked')]
    maps = [('teacher', row.teacher), *([(control.name, alone.student)] if control and alone else [])]
    for title, values in [*maps, (run.name, row.student)]:
        caption = f'{title}, from {values.min():.2f}'
        alt = f'Cosine with x {x}, y {y} in {title}: {values.min():.2f} to 1, mean {values.mean():.2f}'
        panels.append(panel(heated(image, values), caption, alt))
    return Group(f'{run.title}{row.level}', panels)


def _of_type(run: TrainedRun, kind: str) -> str | None:
    kinds = {name: str(option.get('type')).rpartition('.')[2] for name, option in run.distillers.items()}
    return next((name for name, found in kinds.items() if found == kind), None)
