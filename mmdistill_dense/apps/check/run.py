"""Check a config in stages: cheap checks come first, and an error ends the check. The report is printed as tables."""

import argparse
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmdistill_dense.apps.check import stages
from mmdistill_dense.apps.check.context import CheckContext, Options
from mmdistill_dense.apps.inspect.gradients import BACKBONE
from mmdistill_dense.apps.recipes.named import read_config, read_quietly
from mmdistill_dense.config.values import num_classes
from mmdistill_dense.guards import run_rules
from mmdistill_dense.guards.findings import ERROR, NOTE, WARNING, Finding, Findings, worst
from mmdistill_dense.utils.files import without_nan, write_json
from mmdistill_dense.utils.process import device_of, quiet, terminal
from mmdistill_dense.utils.validate import message_of, size_text

_STYLES = {ERROR: 'bold red', WARNING: 'yellow', NOTE: 'cyan'}


def _advice(stage: str, context: CheckContext, error: Exception) -> str:
    """Return which option of the command may help after an error in a stage; empty for none."""
    command = context.options.command
    if stage == READING and command:
        return 'The rest can be checked on generated pictures: --size H W.'
    if stage == LOADING and command and any(word in str(error) for word in ('checkpoint', 'load_from')):
        return 'Everything else can be checked without weights: --no-weights.'
    if stage != STEPPING:
        return ''
    queries = getattr(context.model, 'num_queries', None)
    if 'index k out of range' in str(error) and queries:
        return (
            f'The maps have fewer places than the network has queries ({queries}): make pictures larger '
            '(train_dataloader.dataset.pipeline; --size of new and check), or set a smaller num_queries.'
        )
    if 'more than 1 value per channel' in str(error) and context.batch_size == 1:
        hint = ' (the check alone takes them with --batch 2)' if command else ''
        needs = 'Batch norm behind a pooling to one pixel needs two pictures: set train_dataloader.batch_size=2 or more'
        return f'{needs}{hint}.'
    return '' if context.options.size is None else 'Is --size too small for the network?'


Rule = Callable[[Any], Findings | None]
READING, LOADING, STEPPING = 'reading the data set', 'loading the weights', 'running a step'
# The rules of `guards`, which each training asks, behind the work that they need.
STAGES: Sequence[tuple[str, Rule, Sequence[Rule]]] = (
    ('reading the config', stages.read_model, (*run_rules.CONSTRUCTION, *run_rules.CONFIG)),
    (READING, stages.read_data, (*run_rules.DATA, *run_rules.BATCH)),
    ('building the networks', stages.build, (*run_rules.MODEL, *run_rules.STEP)),
    ('reading the pictures without labels', stages.read_unlabelled, ()),
    (LOADING, stages.load, ()),
    ('predicting a picture of validation', stages.predict, ()),
    ('testing the teacher', stages.test_teachers, ()),
    (STEPPING, stages.run_step, ()),
)


@dataclass
class CheckReport:
    """The result of a check: its context with all facts, and the findings in the order of the stages."""

    context: CheckContext
    findings: list[Finding] = field(default_factory=list)
    stopped: str = ''

    @property
    def verdict(self) -> str:
        """``'ok'``, ``'warning'`` or ``'error'``, also of a check that ended before its last stage."""
        return ERROR if self.stopped else worst(self.findings)

    def exit_code(self, strict: bool = False) -> int:
        """Return 2 for an error, 1 for warnings if ``strict``, else 0."""
        return 2 if self.verdict == ERROR else int(strict and self.verdict == WARNING)

    def as_dict(self) -> dict[str, Any]:
        context, shape = self.context, self.context.batch_shape
        rows: dict[str, Sequence[Any]] = {'findings': self.findings, 'teachers': context.teachers}
        rows |= {'taps': context.taps, 'losses': context.terms}
        return {
            'config': context.config.filename,
            'verdict': self.verdict,
            'stopped': self.stopped or None,
            'batch': {'real': bool(shape) and not context.generated, 'shape': shape, 'pictures': context.pictures},
            'student': asdict(context.student) if context.student else None,
            **{key: [*map(asdict, members)] for key, members in rows.items()},
            **{key: getattr(context, key) for key in ('unlabelled', 'iteration', 'settings')},
        }


def check_config(
    config: Config | str | Path, options: Options | None = None, tell: Callable[[str], None] | None = None
) -> CheckReport:
    """Check what would be trained: build it, load it, run one step, compare what must agree. Nothing is written.

    Args:
        config: A config, its file, or its name: one with a ``DistillModel``, or an ordinary one.
        options: How; see :class:`~mmdistill_dense.apps.check.context.Options`.
        tell: Called with the name of each stage as it begins.

    Returns:
        The report. Mistakes in the config are findings, not exceptions. The stages after an error are left out, except
        after data that cannot be read.
    """
    with quiet():
        config = config if isinstance(config, Config) else read_config(config)
    return run_stages(CheckReport(CheckContext(config, options or Options())), tell)


def run_stages(report: CheckReport, tell: Callable[[str], None] | None = None) -> CheckReport:
    """Fill a report, which tells at any time what was found so far, and in which stage the check is."""
    for stage, work, rules in STAGES:
        report.stopped, findings = stage, list[Finding]()
        if tell is not None:
            tell(stage)
        for rule in (work, *rules):
            name = stage if rule is work else rule.__name__
            try:
                with quiet():
                    for finding in rule(report.context) or ():
                        findings.append(replace(finding, check=finding.check or name))
            except Exception as error:  # a config may run any code
                logging.getLogger(__name__).debug('%s', stage, exc_info=error)
                findings.append(Finding(ERROR, message_of(error), _advice(stage, report.context, error), name))
                if rule is work:
                    break
        report.findings += findings
        if worst(finding for finding in findings if finding.check != stages.DATA) == ERROR:
            return report
    report.stopped = ''
    return report


def check_command(args: argparse.Namespace) -> int:
    console = terminal()
    device = device_of(args.device)
    options = Options(not args.no_weights, device, args.batch, args.size, args.val, args.processes)
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
    for names, *rows in (_networks(context), _taps(context), _losses(context)):
        table = Table(box=None, pad_edge=False, header_style='bold', title_justify='left', title_style='yellow')
        if 'loss' in names and not context.options.weights:
            table.title = 'random weights: these numbers mean nothing'
        for name in names:
            table.add_column(name.lstrip('>'), justify='right' if '>' in name else 'left', overflow='fold')
        for row in rows:
            table.add_row(*row)
        if rows:
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


def _lines(context: CheckContext) -> Iterator[str]:
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


# Tables: first the names of the columns, with > before those of numbers, then the rows


def _networks(context: CheckContext) -> Iterator[Sequence[str]]:
    yield 'network', 'class', '>parameters', '>trained', 'weights', 'metric'
    if (student := context.student) is None:
        return
    origin = 'initialised' if context.options.weights else 'random'
    source = '\n'.join(start.replace(', ', '\n') for start in student.starts) or origin
    yield 'student', student.network, f'{student.parameters:,}', f'{student.trained:,}', source, ''
    for name, count in (('auxiliary heads', student.auxiliary), ('distillers', student.distillers)):
        if count:
            yield f'  {name}', '', f'{count:,} more', '', 'in training alone', ''
    for facts in context.teachers:
        metric = facts.metric_note
        if facts.metric:
            scores = sorted(facts.metric.items(), key=lambda item: item[0] != 'mIoU')[:2]
            metric = ', '.join(f'{name.rsplit("/", 1)[-1]} {value:.3g}' for name, value in scores)
            metric += f'\non {facts.metric_pictures} validation pictures'
        weights = facts.describe().replace(', ', '\n', 1) or 'random'
        yield facts.key.removeprefix('model.'), facts.network, f'{facts.parameters:,}', '0', weights, metric


def _taps(context: CheckContext) -> Iterator[Sequence[str]]:
    yield 'distiller', 'student tap', 'shape', 'teacher tap', 'shape'
    for row in context.taps:
        shape = size_text(row.student_shape)
        yield row.distiller, row.student_tap, shape, row.teacher_tap, size_text(row.teacher_shape)


def _losses(context: CheckContext) -> Iterator[Sequence[str]]:
    yield 'loss', '>value', '>share', '>gradient', '>share', '>cosine with task'
    for term in context.terms:
        pull = term.pulls[BACKBONE]
        cosine = '-' if math.isnan(pull.cosine) else f'{pull.cosine:+.2f}'
        yield term.name, f'{term.value:.4g}', f'{term.share:.1%}', f'{pull.norm:.3g}', f'{pull.share:.1%}', cosine
