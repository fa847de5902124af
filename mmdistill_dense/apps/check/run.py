"""Check a config in stages: cheap checks come first, and an error ends the check."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdistill_dense.apps.check import stages
from mmdistill_dense.apps.check.context import CheckContext, Options
from mmdistill_dense.apps.recipes.named import read_config
from mmdistill_dense.guards import run_rules
from mmdistill_dense.guards.findings import ERROR, WARNING, Finding, Findings, worst
from mmdistill_dense.utils.process import quiet
from mmdistill_dense.utils.validate import message_of


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
    ('measuring its cost', stages.measure_cost, ()),
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
            **{key: [asdict(row) for row in member] for key, member in rows.items()},
            **{key: getattr(context, key) for key in ('unlabelled', 'iteration', 'settings', 'cost')},
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
