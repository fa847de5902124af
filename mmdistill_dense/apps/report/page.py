"""Write a report into one self-contained HTML file: answer, scores, pictures, curves, settings."""

from __future__ import annotations

import argparse
import base64
import gzip
from collections.abc import Sequence
from datetime import datetime
from importlib import resources
from pathlib import Path

from mmdistill_dense.apps.report.predictions import Predictions
from mmdistill_dense.apps.report.runs import Comparison, compare
from mmdistill_dense.apps.report.scores import answer_section
from mmdistill_dense.apps.report.section import Chart, Numbers, Section, graph_objects
from mmdistill_dense.apps.report.settings import settings_section
from mmdistill_dense.utils.files import check_writable, write_text
from mmdistill_dense.utils.process import errors_only, quiet
from mmdistill_dense.utils.version import __version__

PICTURES = 4
NAMED = 3  # methods in the title


def make_report(
    folders: Sequence[str | Path],
    out: str | Path = 'report.html',
    control: str | Path | None = None,
    pictures: int = PICTURES,
    metric: str | None = None,
) -> tuple[Path, list[Section]]:
    """Write a page about runs."""
    if pictures < 0:
        raise ValueError(f'pictures must be 0 or more, got {pictures}')
    path = Path(out)
    check_writable(path, 'out')
    if path.suffix.lower() not in ('.html', '.htm'):
        raise ValueError(f'out={str(path)!r} must end in .html: the page would replace a file of another kind.')
    graph_objects()
    comparison = compare(folders, control)
    with errors_only():  # networks log how they are built
        sections = sections_of(comparison, pictures, metric)
    write_text(path, render(comparison, sections))
    return path, sections


def report(args: argparse.Namespace) -> None:
    """Write a page and print what it leaves out."""
    with quiet():
        path, sections = make_report(args.folders, args.out, args.control, args.pictures, args.metric)
    for section in sections:
        for reason in section.reasons:
            print(f'left out, {section.title.lower()}: {reason}')
    print(f'{path} ({path.stat().st_size / 2**20:.1f} MB)')


def sections_of(comparison: Comparison, pictures: int = PICTURES, metric: str | None = None) -> list[Section]:
    """Return the sections of a page: the answer with the scores, pictures, curves, settings."""
    numbers, predictions = Numbers(comparison, metric), Predictions(comparison, pictures)
    scores = answer_section(numbers, predictions.uses)
    return [scores, predictions.section, numbers.curves(), settings_section(comparison)]


def render(comparison: Comparison, sections: Sequence[Section]) -> str:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise ImportError("a report needs Jinja2: pip install 'mmdistill_dense[report]'") from error
    from plotly.offline import get_plotlyjs

    loader = PackageLoader('mmdistill_dense.apps.report', 'templates')
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters['kind'] = lambda item: type(item).__name__.lower()
    methods = list(dict.fromkeys(run.name for run in comparison.runs)) or comparison.names
    charts = any(isinstance(item, Chart) for section in sections for item in section.items)
    packed = gzip.compress(get_plotlyjs().encode(), 9, mtime=0) if charts else b''  # 2 MB, not 4.8; the page unpacks it
    templates = resources.files('mmdistill_dense.apps.report') / 'templates'
    style, script = ((templates / name).read_text(encoding='utf-8') for name in ('style.css', 'page.js'))
    return environment.get_template('page.html.j2').render(
        title=f'Distillation report: {", ".join(methods) if len(methods) <= NAMED else f"{len(methods)} methods"}',
        runs=[(run.title, str(run.folder)) for run in comparison.students],
        made=datetime.now().astimezone().strftime('%Y-%m-%d %H:%M %z'),
        version=__version__,
        sections=[section for section in sections if section.items],
        left_out=[section for section in sections if not section.items],
        style=style,
        script=script,
        plotly=base64.b64encode(packed).decode('ascii'),
    )
