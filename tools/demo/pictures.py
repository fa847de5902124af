"""What the demonstration shows at its end: a table and pictures."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.registry import DefaultScope
from rich.table import Table

from mmdistill_dense.registry import DATASETS
from tools.demo.training import PICTURES, Result, Task

CONFIDENT = 0.3  # least score of a drawn box
ENLARGED = 3  # so that a box's border is thin
LARGE = 400  # pixels of width from which a picture is shown smaller than it is


def make_table(task: Task, results: Sequence[Result]) -> Table:
    """Return the table: every run, and for several seeds the means and the difference of the pairs."""
    table = Table(title=f'{task.title} on generated test pictures')
    for column in ('network', 'seed', task.title, 'parameters', 'training time'):
        table.add_column(column, justify='left' if column == 'network' else 'right')
    for result in results:
        values = (f'{result.score:.1f}', f'{result.parameters:,}', f'{result.seconds:.0f} s')
        table.add_row(_title(result.name), str(result.seed), *values)
    table.add_section()
    alone, distilled = ([r.score for r in results if r.name == name] for name in ('alone', 'distilled'))
    gains = [after - before for before, after in zip(alone, distilled, strict=True)]
    if len(gains) > 1:
        table.add_row(_title('alone'), 'mean', _spread(alone), '', '')
        table.add_row(_title('distilled'), 'mean', _spread(distilled), '', '')
        table.add_row('gain of each seed', '', ', '.join(f'{gain:+.1f}' for gain in gains), '', '')
    table.add_row('gain by distillation', 'mean' if len(gains) > 1 else '', f'{mean(gains):+.1f}', '', '')
    return table


def draw_picture(task: Task, results: Sequence[Result], path: Path) -> None:
    """Write a picture: input, truth and the prediction of each network, side by side, for some test pictures."""
    shown = [next(result for result in results if result.name == name) for name in ('teacher', 'alone', 'distilled')]
    pictures, palette = shown_pictures(task)
    titles = ['input', 'truth', *(f'{_title(result.name)}\n{task.title} {result.score:.1f}' for result in shown)]
    rows = []
    for row, (image, truth) in enumerate(pictures):
        samples = [truth, *(result.predictions[row] for result in shown)]
        rows.append([image, *(_panel(image, sample, palette) for sample in samples)])
    draw_grid(rows, titles, path)


def draw_grid(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], path: Path) -> None:
    """Write rows of pictures (H, W, 3), RGB, with a title above each column."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 1.6 * len(rows)), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for axis, panel in zip(axes.flat, chain.from_iterable(rows), strict=True):
        axis.imshow(panel, interpolation='nearest' if panel.shape[1] < LARGE else 'antialiased')
        axis.set_axis_off()
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    figure.savefig(path, dpi=110)


def shown_pictures(task: Task, count: int = PICTURES) -> tuple[list[tuple[np.ndarray, Any]], np.ndarray]:
    """Return the first test pictures, each an image (H, W, 3) RGB and a data sample of the truth; and the palette."""
    cfg = task.config('alone')
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
        items = [dataset[index] for index in range(count)]
    pictures = [(item['inputs'].permute(1, 2, 0).numpy()[..., ::-1], item['data_samples']) for item in items]
    return pictures, np.asarray(dataset.metainfo['palette'], np.uint8)


def _panel(image: np.ndarray, sample: Any, palette: np.ndarray) -> np.ndarray:
    """Draw what a sample predicts, or its truth where it predicts nothing."""
    if 'pred_sem_seg' in sample or 'gt_sem_seg' in sample:
        labels = sample.pred_sem_seg if 'pred_sem_seg' in sample else sample.gt_sem_seg
        return palette[labels.data.squeeze(0).numpy()]
    return boxed(image, sample, palette, ENLARGED)


def boxed(
    image: np.ndarray, sample: Any, palette: np.ndarray, scale: int = 1, confident: float = CONFIDENT
) -> np.ndarray:
    """Return an enlarged image with a box in the colour of its class around every predicted object, or true one."""
    if 'pred_instances' in sample:
        ranked = sample.pred_instances[sample.pred_instances.scores.argsort()]  # the best is drawn last
        objects = ranked[ranked.scores > confident]
    else:
        objects = sample.gt_instances
    boxes = torch.as_tensor(getattr(objects.bboxes, 'tensor', objects.bboxes))
    canvas = cv2.resize(np.ascontiguousarray(image), None, fx=scale, fy=scale)
    for box, label in zip((boxes * scale).round().int().tolist(), objects.labels.tolist(), strict=True):
        cv2.rectangle(canvas, box[:2], box[2:], (255, 255, 255), 7)
        cv2.rectangle(canvas, box[:2], box[2:], palette[label].tolist(), 5)
    return canvas


def _title(name: str) -> str:
    return {'teacher': 'teacher', 'alone': 'student alone', 'distilled': 'student distilled'}[name]


def _spread(values: Sequence[float]) -> str:
    return f'{mean(values):.1f} ± {stdev(values):.1f}'
