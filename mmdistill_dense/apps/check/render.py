"""What ``check`` prints: a report as tables for a terminal."""

import argparse
import math
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmdistill_dense.apps.check.context import CheckContext, Options
from mmdistill_dense.apps.check.run import CheckReport, run_stages
from mmdistill_dense.apps.inspect.gradients import BACKBONE
from mmdistill_dense.apps.recipes.named import read_quietly
from mmdistill_dense.config.values import num_classes
from mmdistill_dense.guards.findings import ERROR, NOTE, WARNING, worst
from mmdistill_dense.utils.files import without_nan, write_json
from mmdistill_dense.utils.process import device_of, terminal
from mmdistill_dense.utils.validate import size_text

_STYLES = {ERROR: 'bold red', WARNING: 'yellow', NOTE: 'cyan'}
_SHOWN_METRICS = 2


def check_command(args: argparse.Namespace) -> int:
    console = terminal()
    size = tuple(args.size) if args.size else None
    device = device_of(args.device)
    options = Options(not args.no_weights, device, args.batch, size, args.val, not args.no_cost, args.processes)
    report = CheckReport(CheckContext(read_quietly(args.config, args.cfg_options), options))
    try:
        with console.status('…') as status:  # shown on a terminal
            run_stages(report, lambda stage: status.update(f'{stage} …'))
    finally:  # also what was found before Ctrl-C or SIGTERM
        show(report, console)
        if args.json:
            write_json(Path(args.json), without_nan(report.as_dict()))
    return report.exit_code(args.strict)


def show(report: CheckReport, console: Console) -> None:
    context = report.context
    console.print(Text(str(context.config.filename or 'config'), style='bold'))
    for line in _lines(context):
        console.print(line, markup=False)
    for table in (_networks(context), _taps(context), _losses(context), _cost(context)):
        if table is not None and table.row_count:
            console.print()
            console.print(table)
    console.print()
    for finding in report.findings:
        text = f'{finding.check}: {finding.message}' + (f'\n         {finding.advice}' if finding.advice else '')
        console.print(Text.assemble((f'{finding.level:8}', _STYLES[finding.level]), text))
    if report.stopped and worst(report.findings) != ERROR:
        console.print(Text(f'STOPPED while {report.stopped}: the rest was not checked.', style=_STYLES[WARNING]))
    elif report.verdict == ERROR:
        stage = f' while {report.stopped}' if report.stopped else ' in the data'
        console.print(Text(f'ERROR{stage}: training would not work.', style=_STYLES[ERROR]))
    elif count := sum(finding.level == WARNING for finding in report.findings):
        console.print(Text(f'OK, with {count} warning{"s" if count > 1 else ""}.', style=_STYLES[WARNING]))
    else:
        console.print(Text('OK', style='bold green'))


def _lines(context: CheckContext) -> Iterable[str]:
    if context.batch_shape:
        origin = 'generated' if context.generated else f'first of {context.pictures:,} pictures'
        shapes = ' and '.join(size_text(shape) for shape in context.batch_shape)
        yield f'batch    {shapes}, {origin}, on {context.options.device}'
    if context.network is not None:
        counts = {'data set': len(context.data_classes or ()), 'student': num_classes(context.network)}
        for teacher in context.frozen.values():
            counts[teacher.key.removeprefix('model.')] = num_classes(teacher.config.model)
        if any([*counts.values()][1:]):
            yield 'classes  ' + ', '.join(f'{name} {count or "-"}' for name, count in counts.items())
    for name, chosen in context.settings.items():
        yield f'settings {name}: {chosen}'
    if free := context.unlabelled:
        out = f', {free["labelled"]:,} labelled ones taken out' if free['labelled'] else ''
        yield f'without  {free["pictures"]:,} pictures without labels{out}, {free["step"]} a step'
    if 'problem' in context.cost:
        yield f'cost     time and memory could not be measured here: {context.cost["problem"]}'


def _networks(context: CheckContext) -> Table | None:
    if context.student is None:
        return None
    student, origin = context.student, 'initialised' if context.options.weights else 'random'
    source = '\n'.join(start.replace(', ', '\n') for start in student.starts) or origin
    table = _table('network', 'class', '>parameters', '>trained', 'weights', 'metric')
    table.add_row('student', student.network, f'{student.parameters:,}', f'{student.trained:,}', source, '')
    for name, count in (('auxiliary heads', student.auxiliary), ('distillers', student.distillers)):
        if count:
            table.add_row(f'  {name}', '', f'{count:,} more', '', 'in training alone', '')
    for facts in context.teachers:
        metric = facts.metric_note
        if facts.metric:
            scores = sorted(facts.metric.items(), key=lambda item: item[0] != 'mIoU')[:_SHOWN_METRICS]
            metric = ', '.join(f'{name.rsplit("/", 1)[-1]} {value:.3g}' for name, value in scores)
            metric += f'\non {facts.metric_pictures} validation pictures'
        name, weights = facts.key.removeprefix('model.'), facts.describe().replace(', ', '\n', 1) or 'random'
        table.add_row(name, facts.network, f'{facts.parameters:,}', '0', weights, metric)
    return table


def _taps(context: CheckContext) -> Table:
    table = _table('distiller', 'student tap', 'shape', 'teacher tap', 'shape')
    for row in context.taps:
        shapes = size_text(row.student_shape), size_text(row.teacher_shape)
        table.add_row(row.distiller, row.student_tap, shapes[0], row.teacher_tap, shapes[1])
    return table


def _losses(context: CheckContext) -> Table:
    table = _table('loss', '>value', '>share', '>gradient', '>share', '>cosine with task')
    if context.terms and not context.options.weights:
        table.title = 'random weights: these numbers mean nothing'
    for term in context.terms:
        pull = term.pulls[BACKBONE]
        cosine = '-' if math.isnan(pull.cosine) else f'{pull.cosine:+.2f}'
        cells = f'{pull.norm:.3g}', f'{pull.share:.1%}', cosine
        table.add_row(term.name, f'{term.value:.4g}', f'{term.share:.1%}', *cells)
    return table


def _cost(context: CheckContext) -> Table | None:
    cost = context.cost
    if 'distilled' not in cost:
        return None
    seconds = 'GPU seconds' if str(cost['device']).startswith('cuda') else 'CPU seconds'
    table = _table('a step', f'>{seconds}', '>MiB at its peak', '>MiB more in all')
    distilled, control = cost['distilled']['median'], cost['control']['median'] if 'control' in cost else None
    mib = {name: f'{value / 2**20:,.1f}' for name, value in cost.items() if name.endswith('_memory')}
    if control:
        table.add_row('student alone', f'{control:.3g}', mib['control_memory'], '')
    ratio = f' ({distilled / control:.2f}x)' if control else ''
    table.add_row('distilled', f'{distilled:.3g}{ratio}', mib['distilled_memory'], mib.get('extra_memory', ''))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style='bold', title_justify='left', title_style='yellow')
    for column in columns:
        right = column.startswith('>')
        table.add_column(column.lstrip('>'), justify='right' if right else 'left', overflow='fold')
    return table
