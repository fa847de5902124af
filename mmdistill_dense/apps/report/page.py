"""Write a report into one self-contained HTML file: answer, scores, pictures, curves, settings."""

import argparse
import base64
import gzip
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from mmengine.config import Config

from mmdistill_dense.apps.report.predictions import PICTURES, Predictions, token_section
from mmdistill_dense.apps.report.runs import Comparison, TrainedRun, compare
from mmdistill_dense.apps.report.scores import Answer
from mmdistill_dense.apps.report.section import Section, Sheet, curves_section, graph_objects
from mmdistill_dense.config.values import flat
from mmdistill_dense.utils.files import check_writable, write_text
from mmdistill_dense.utils.process import errors_only, quiet
from mmdistill_dense.utils.version import __version__
from mmdistill_dense.weights.strict_load import read_checkpoint


def make_report(
    folders: Sequence[str | Path],
    out: str | Path = 'report.html',
    control: str | Path | None = None,
    pictures: int = PICTURES,
    metric: str | None = None,
    data: Config | None = None,
) -> tuple[Path, list[Section]]:
    """Write a page about runs; ``data`` is a config with the test set, where that was moved since."""
    if pictures < 0:
        raise ValueError(f'pictures must be 0 or more, got {pictures}')
    path = Path(out)
    check_writable(path, 'out')
    if path.suffix.lower() not in ('.html', '.htm'):
        raise ValueError(f'out={str(path)!r} must end in .html: the page would replace a file of another kind.')
    graph_objects()
    comparison = compare(folders, control)
    with errors_only():  # networks log how they are built
        answer = Answer(comparison, metric)
        best = answer.verdict.best
        predictions = Predictions(comparison, pictures, best.name if best else None, data)
        answer.costs = predictions.costs
        curves = curves_section(comparison, answer.metrics[1:])
        tokens = [token_section(comparison, data)] if pictures else []
        sections = [answer.section(), predictions.section, *tokens, curves, settings_section(comparison)]
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


def render(comparison: Comparison, sections: Sequence[Section]) -> str:
    from plotly.offline import get_plotlyjs

    loader = PackageLoader('mmdistill_dense.apps.report', 'templates')
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    methods = list(dict.fromkeys(run.name for run in comparison.runs)) or comparison.names
    charts = any(hasattr(item, 'to_json') for section in sections for item in section.items)
    packed = gzip.compress(get_plotlyjs().encode(), 9, mtime=0) if charts else b''  # 2 MB, not 4.8; the page unpacks it
    return environment.get_template('page.html.j2').render(
        title=f'Distillation report: {", ".join(methods) if len(methods) < 4 else f"{len(methods)} methods"}',
        runs=[(run.title, str(run.folder)) for run in comparison.students],
        made=datetime.now().astimezone().strftime('%Y-%m-%d %H:%M %z'),
        version=__version__,
        sections=sections,
        plotly=base64.b64encode(packed).decode('ascii'),
    )


_IGNORED_KEYS = (  # folders and logging; the pipelines are part of the data sets
    *('work_dir', 'experiment_name', 'launcher', 'resume', 'load_from', 'log_level', 'visualizer', 'vis_backends'),
    *('distillers', 'train_pipeline', 'val_pipeline', 'test_pipeline'),
)
_LONG = 160  # characters of a printed value
_NONE = object()  # of a key that a config lacks


def settings_section(comparison: Comparison) -> Section:
    """Return a table for each method: keys whose values differ from its control's."""
    section = Section('settings', 'Settings', 'Every key of the whole config that differs from the control.')
    for name in comparison.names:
        run = comparison.runs_of(name)[0]
        if run.distillers:
            section.attempt(partial(compared_table, run))
        if (control := comparison.control_of(run)) is not None:
            section.attempt(partial(settings_table, run, control))
    if not comparison.controls:
        section.reasons.append('No control to compare with: give one with --control.')
    elif not comparison.runs:
        section.reasons.append('All runs are controls: there is nothing to compare.')
    return section


def compared_table(run: TrainedRun) -> Sheet:
    """Return what the distillers of a run compared, from its checkpoint: also what ``'auto'`` chose."""
    if run.checkpoint is None:
        raise ValueError(f'What {run.title} compared is left out: it has no checkpoint.')
    distillers = read_checkpoint(run.checkpoint).get('meta', {}).get('distill', {}).get('distillers', {})
    rows = [
        [name, options['type'], student, teacher, '' if index else options.get('settings', '')]
        for name, options in distillers.items()
        for index, (student, teacher) in enumerate(options.get('taps', ()))
    ]
    networks = [(run.model.get('student') or {}).get('cfg'), *(option.get('cfg') for option in run.teachers.values())]
    names = ' and '.join(str(cfg) for cfg in networks if cfg)
    caption = f'What {run.name} compared{f" in {names}" if names else ""}'
    return Sheet(caption, ['distiller', 'method', "student's tap", "teacher's tap", 'settings'], rows)


def settings_table(run: TrainedRun, control: TrainedRun) -> Sheet:
    settings, control_settings = flat(run.config.to_dict()), flat(control.config.to_dict())
    rows = []
    for key in dict.fromkeys([*control_settings, *settings]):
        values = control_settings.get(key, _NONE), settings.get(key, _NONE)
        if key.split('.')[0] not in _IGNORED_KEYS and values[0] != values[1]:
            texts = [
                '–' if value is _NONE else repr(value) if isinstance(value, str) else str(value) for value in values
            ]
            rows.append([key, *(text if len(text) <= _LONG else text[: _LONG - 1] + '…' for text in texts)])
    caption = f'{run.title} against {control.title}'
    return Sheet(caption, ['key', control.title, run.title], rows or [['nothing differs', '', '']])
