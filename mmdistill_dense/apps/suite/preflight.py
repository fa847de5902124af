"""The check of a suite's rows before the first run starts."""

from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from mmdistill_dense.apps.check.context import Options
from mmdistill_dense.apps.check.run import CheckReport, check_config
from mmdistill_dense.apps.recipes.compose import unknown
from mmdistill_dense.apps.suite import configs, plan
from mmdistill_dense.apps.suite.definition import Definition, error_prefix
from mmdistill_dense.apps.suite.plan import Resolved
from mmdistill_dense.config.local_code import local_code
from mmdistill_dense.config.values import evaluator_scores, listed, may_give
from mmdistill_dense.guards.findings import ERROR, NOTE
from mmdistill_dense.networks.building import building_once
from mmdistill_dense.utils.files import read_json, write_json
from mmdistill_dense.utils.process import heartbeat
from mmdistill_dense.utils.version import __version__


@building_once()
def check_rows(definition: Definition, todo: Resolved) -> None:
    """Check each row as ``mmdistill check`` does, once for rows that differ in a factor of the learning rate alone.

    A row that passed is not checked again while its hash is the same. Networks of equal configs are built once.
    """
    path = definition.out / 'checked.json'
    hashes = read_json(path) or {}
    trained = plan.trains_teacher(definition)
    for name, changes in definition.test_sets.items() if todo else ():
        config = configs.with_test_set(configs.control_config(definition), changes)
        with (
            error_prefix(f'{definition.path}: test_sets.{name}'),
            DefaultScope.overwrite_default_scope(config.get('default_scope')),
        ):
            if not len(DATASETS.build(config.test_dataloader.dataset)):
                raise ValueError('the set has no pictures: its keys change the test set of the control.')
    backbones = dict[Path, dict[str, tuple[int, ...]]]()
    checked = dict[str, str]()  # name of a row by the hash of its config without rates
    for run in todo:
        config = todo[run][0]
        digest = f'{todo[run][1]} {configs.networks_hash(config)} {__version__}{local_code(config) or ""}'
        check_metric(config, definition.metric, str(definition.path))
        if (run.is_teacher and not trained) or hashes.get(run.name) == digest:
            continue  # an existing teacher is only tested
        without_rates = deepcopy(config)
        with suppress(ValueError):  # an optimizer without a rate
            configs.scale_rate(without_rates, 0.0, run.name)
        first = checked.setdefault(f'{configs.config_hash(without_rates)} {run.teacher is None}', run.name)
        if first == run.name:
            # the step of a whole batch may take minutes on a CPU; a teacher that the suite trains has no file yet
            few, loads = min(2, config.train_dataloader.batch_size), run.teacher is None
            starts = run.pretraining is None or read_json(run.pretraining / 'result.json') is not None
            if not starts:  # from weights that the suite has still to train
                config = deepcopy(config)
                config.model.student.backbone.init_cfg = None
            options = Options(batch=few, val=0, cost=False, command=False, teachers=loads)
            with heartbeat(f'checking {run.name}'):
                report = check_config(config, options, lambda stage: None)
            if wrong := [finding for finding in report.findings if finding.level == ERROR]:
                problems = ' '.join(f'{finding.message} {finding.advice}'.strip() for finding in wrong)
                raise ValueError(f'{definition.path}: {run.name}: {problems}')
            print('\n'.join(_summary_lines(run.name, report)), flush=True)
            backbone = getattr(report.context.model, 'backbone', None)
            tensors = {} if backbone is None else backbone.state_dict()
            backbones[run.folder] = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
            if run.pretraining in backbones and backbones[run.pretraining] != backbones[run.folder]:
                problem = 'its backbone has other tensors than that of the student, which could not start from it'
                raise ValueError(f'{definition.path}: methods.{run.name}.pretrain: {problem}.')
        else:
            print(f'check    {run.name}: as {first}, at another learning rate', flush=True)
        hashes = {**hashes, run.name: digest}
        write_json(path, hashes)


def _summary_lines(name: str, report: CheckReport) -> Iterator[str]:
    context = report.context
    facts = [f'{context.pictures} pictures'] if context.pictures else []
    if context.student is not None:
        facts.append(f'student {context.student.parameters / 1e6:.2f} M parameters')
    for teacher in context.teachers:
        if teacher.parameters:
            facts.append(f'{teacher.key.removeprefix("model.")} {teacher.parameters / 1e6:.2f} M')
    yield f'check    {name}: {report.verdict}; {", ".join(facts)}'
    for start in context.student.starts if context.student else ():
        yield f'         student: {start}'
    for teacher in context.teachers:
        if origin := teacher.describe():
            yield f'         teacher from {origin}'
    pairs = [f'{row.distiller} compares {row.student_tap} with {row.teacher_tap}' for row in context.taps]
    yield from (f'         {pair}' for pair in dict.fromkeys(pairs))
    for finding in report.findings:
        if finding.level != NOTE:
            yield f'         {finding.level}: {finding.message} {finding.advice}'.rstrip()


def check_metric(config: Config, metric: str, path: str) -> None:
    """Refuse a metric that evaluators of mmseg and mmdet do not return, and evaluators that give no score."""
    for split in ('val_evaluator', 'test_evaluator'):
        evaluators = listed(config.get(split))
        if any(evaluator.get('format_only') for evaluator in evaluators):
            raise ValueError(f'{path}: {split}.format_only=True writes predictions and gives no score: leave it out.')
        if evaluators and not any(may_give(evaluator, metric) for evaluator in evaluators):
            names = set().union(*(evaluator_scores(evaluator) or () for evaluator in evaluators))
            raise ValueError(f'{path}: metric: {unknown(f"score of {split}", metric, names)}')
