"""What the demonstration shows at its end: a table and a picture."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from rich.table import Table

from mmdistill_dense.analysis.demo import Result, shown_pictures
from mmdistill_dense.datasets.shapes import ShapesSegDataset


def make_table(results: Sequence[Result]) -> Table:
    """Return the table: every run, and for several seeds the means and the difference of the pairs."""
    table = Table(title='mIoU on generated test pictures')
    for column in ('network', 'seed', 'mIoU', 'parameters', 'training time'):
        table.add_column(column, justify='left' if column == 'network' else 'right')
    for result in results:
        values = (f'{result.miou:.1f}', f'{result.parameters:,}', f'{result.seconds:.0f} s')
        table.add_row(_title(result.name), str(result.seed), *values)
    table.add_section()
    alone, distilled = ([r.miou for r in results if r.name == name] for name in ('alone', 'distilled'))
    gains = [after - before for before, after in zip(alone, distilled, strict=True)]
    if len(gains) > 1:
        table.add_row(_title('alone'), 'mean', _spread(alone), '', '')
        table.add_row(_title('distilled'), 'mean', _spread(distilled), '', '')
        table.add_row('gain of each seed', '', ', '.join(f'{gain:+.1f}' for gain in gains), '', '')
    table.add_row('gain by distillation', 'mean' if len(gains) > 1 else '', f'{mean(gains):+.1f}', '', '')
    return table


def draw_picture(results: Sequence[Result], path: Path) -> None:
    """Write a picture: input, truth and the prediction of each network, side by side, for some test pictures."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [next(result for result in results if result.name == name) for name in ('teacher', 'alone', 'distilled')]
    pictures = shown_pictures()
    titles = ['input', 'truth', *(f'{_title(result.name)}\nmIoU {result.miou:.1f}' for result in shown)]
    figure = Figure(figsize=(10, 1.6 * len(pictures)), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(pictures), len(titles), squeeze=False)
    for row, (image, labels) in enumerate(pictures):
        panels = [image, _coloured(labels), *(_coloured(result.maps[row]) for result in shown)]
        for column, panel in enumerate(panels):
            axes[row, column].imshow(panel, interpolation='nearest')
            axes[row, column].set_axis_off()
            if row == 0:
                axes[row, column].set_title(titles[column], fontsize=10)
    figure.savefig(path, dpi=110)


def _title(name: str) -> str:
    return {'teacher': 'teacher', 'alone': 'student alone', 'distilled': 'student distilled'}[name]


def _spread(values: Sequence[float]) -> str:
    return f'{mean(values):.1f} ± {stdev(values):.1f}'


def _coloured(labels: np.ndarray) -> np.ndarray:
    return np.asarray(ShapesSegDataset.METAINFO['palette'], np.uint8)[labels]
