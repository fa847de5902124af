"""Check a config in stages: cheap checks come first, and an error ends the check."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from mmdistill_dense.apps.check import network_rules
from mmdistill_dense.apps.check.context import Options, Subject
from mmdistill_dense.apps.check.facts import (
    build,
    load,
    measure_cost,
    predict,
    read_data,
    read_model,
    read_unlabelled,
    run_step,
    test_teachers,
)
from mmdistill_dense.apps.recipes.named import read_config
from mmdistill_dense.config.values import num_classes
from mmdistill_dense.guards import config_rules, student_rules
from mmdistill_dense.guards.findings import ERROR, WARNING, Finding, Findings, worst
from mmdistill_dense.utils.process import quiet
from mmdistill_dense.utils.validate import message_of

Check = Callable[[Subject], Findings | None]


def _advice(stage: str, subject: Subject, error: Exception) -> str:
    """Return which option of the command may help after an error in a stage; empty for none."""
    command, shapes = subject.options.command, subject.batch_shape
    if stage == READING and command:
        return 'The rest can be checked on generated pictures: --size H W.'
    if stage == LOADING and command and any(word in str(error) for word in ('checkpoint', 'load_from')):
        return 'Everything else can be checked without weights: --no-weights.'
    if stage != STEPPING:
        return ''
    queries = getattr(subject.model, 'num_queries', None)
    if 'index k out of range' in str(error) and queries and len(shapes) == 1:
        with torch.no_grad():
            maps = subject.model.extract_feat(torch.zeros(1, *shapes[0][1:], device=subject.options.device))
        cells = sum(level_map.shape[-2] * level_map.shape[-1] for level_map in maps)
        return (
            f'A picture of {shapes[0][-2]}x{shapes[0][-1]} gives {cells} places for {queries} queries: make pictures '
            'larger (train_dataloader.dataset.pipeline; --size of new and check), or set a smaller num_queries.'
        )
    if 'more than 1 value per channel' in str(error) and subject.batch_size == 1:
        hint = ' (the check alone takes them with --batch 2)' if command else ''
        needs = 'Batch norm behind a pooling to one pixel needs two pictures: set train_dataloader.batch_size=2 or more'
        return f'{needs}{hint}.'
    return '' if subject.options.size is None else 'Is --size too small for the network?'


READING, LOADING, STEPPING = 'reading the data set', 'loading the weights', 'running a step'
_NON_FATAL = 'data'  # after an error of this check the other stages still run, on generated pictures
STAGES: Sequence[tuple[str, Callable[[Subject], None], Sequence[Check]]] = (
    ('reading the config', read_model, (*config_rules.CONSTRUCTION, *config_rules.CONFIG)),
    (READING, read_data, (*network_rules.DATA, *config_rules.DATA, *config_rules.BATCH)),
    ('building the networks', build, (*student_rules.MODEL, *student_rules.STEP, *network_rules.MODEL)),
    ('reading the pictures without labels', read_unlabelled, ()),
    (LOADING, load, network_rules.WEIGHTS),
    ('predicting a picture of validation', predict, ()),
    ('testing the teacher', test_teachers, network_rules.METRIC),
    (STEPPING, run_step, network_rules.STEP),
    ('measuring its cost', measure_cost, network_rules.COST),
)


@dataclass
class CheckReport:
    """The result of a check: its subject with all facts, and the findings in the order of the stages."""

    subject: Subject
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
        subject = self.subject
        return {
            'config': subject.config.filename,
            'options': asdict(subject.options),
            'verdict': self.verdict,
            'stopped': self.stopped or None,
            'findings': [asdict(finding) for finding in self.findings],
            'batch': {
                'real': subject.batch is not None and not subject.data_problem,
                'shape': subject.batch_shape,
                'pictures': subject.pictures,
            },
            'classes': {
                'data': list(subject.data_classes) if subject.data_classes else None,
                'student': num_classes(subject.network) if subject.network is not None else None,
            },
            'unlabelled': asdict(subject.unlabelled) if subject.unlabelled else None,
            'iteration': subject.iteration,
            'settings': subject.settings,
            'student': asdict(subject.student) if subject.student else None,
            **{name: [asdict(facts) for facts in getattr(subject, name)] for name in ('teachers', 'taps')},
            'losses': [asdict(term) for term in subject.terms],
            'cost': subject.cost,
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
    return run_stages(CheckReport(Subject(config, options or Options())), tell)


def run_stages(report: CheckReport, tell: Callable[[str], None] | None = None) -> CheckReport:
    """Fill a report, which tells at any time what was found so far, and in which stage the check is."""
    for stage, work, checks in STAGES:
        report.stopped = stage
        if tell is not None:
            tell(stage)
        with quiet():
            try:
                work(report.subject)
                findings = [finding for check in checks for finding in _findings(check, report.subject)]
            except Exception as error:  # a config may run any code
                logging.getLogger(__name__).debug('%s', stage, exc_info=error)
                findings = [Finding(ERROR, message_of(error), _advice(stage, report.subject, error), stage)]
        report.findings += findings
        if worst(finding for finding in findings if finding.check != _NON_FATAL) == ERROR:
            return report
    report.stopped = ''
    return report


def _findings(check: Check, subject: Subject) -> list[Finding]:
    try:
        return [replace(finding, check=finding.check or check.__name__) for finding in check(subject) or ()]
    except (KeyError, TypeError, ValueError) as error:
        return [Finding(ERROR, message_of(error), check=check.__name__)]
