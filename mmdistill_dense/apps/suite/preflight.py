"""Which runs are to be done, and the check of their configs before the first one starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmengine.config import Config

from mmdistill_dense.apps.check.context import ERROR, NOTE, Options
from mmdistill_dense.apps.check.run import Report, check_config
from mmdistill_dense.apps.recipes.compose import unknown
from mmdistill_dense.apps.suite import configs, plan
from mmdistill_dense.apps.suite.definition import Definition
from mmdistill_dense.apps.suite.job import check_processes
from mmdistill_dense.apps.suite.plan import Run
from mmdistill_dense.config.values import listed, may_give, scores_of
from mmdistill_dense.guards.config import batch_problem
from mmdistill_dense.utils.files import read_json, write_json
from mmdistill_dense.utils.process import heartbeat
from mmdistill_dense.utils.version import __version__


def select(definition: Definition, only: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Run]:
    """Return the runs of some rows and seeds with what they need."""
    runs = plan.runs(definition)
    names = {run.name for run in runs}
    for name in only:
        if name not in names:
            raise ValueError(f'--only: {unknown("row", name, names)}')
    if not set(seeds) <= set(definition.seeds) and (not only or set(only) - {plan.TEACHER}):
        raise ValueError(f'--seeds {list(seeds)}: the definition has {list(definition.seeds)}')
    fits = [run for run in runs if not only or run.name in only]
    wanted = {run.folder for run in fits if not seeds or run.seed in seeds or (only and run.is_teacher)}
    for run in reversed(runs):  # what is needed stands before
        if run.folder in wanted:
            wanted.update(run.after)
    return [run for run in runs if run.folder in wanted]


def unfinished(definition: Definition, runs: Sequence[Run], processes: int = 1) -> list[Run]:
    """Return the runs without a result, with a teacher whose weights they need and whose file is gone."""
    plan.check_unchanged(definition, runs)
    todo = [run for run in runs if run.result is None]
    for run in plan.runs(definition) if todo else ():
        check_processes(run, processes)
    needed = {folder for run in todo for folder in run.after}
    for run in runs:  # results without weights were restored or tidied up
        name = (run.result or {}).get('checkpoint')
        if run.folder in needed and name is not None and not (run.folder / name).is_file():
            (run.folder / 'result.json').replace(run.folder / 'result_without_weights.json')
    return [run for run in runs if run.result is None]


def check_batch(definition: Definition, todo: Sequence[Run], processes: int) -> None:
    """Refuse a batch that does not match the recipe's learning rate."""
    for place, run in {'teacher.options' if run.is_teacher else 'options': run for run in todo}.items():
        if run.is_teacher and not plan.trains_teacher(definition):
            continue
        if problem := batch_problem(plan.config_of(definition, run), processes):
            raise ValueError(f'{definition.path}: {place}: {problem}')


def check(definition: Definition, todo: Sequence[Run]) -> None:
    """Check the config of each row as ``mmdistill check`` does; one that was found good is not checked again."""
    check_metric(configs.control_config(definition), definition.metric, str(definition.path))
    place = definition.out / 'checked.json'
    known = read_json(place) or {}
    trains = any(run.is_teacher for run in todo) and plan.trains_teacher(definition)
    firsts = dict[str, Run]()
    for run in todo:
        firsts.setdefault(run.name, run)
    for run in firsts.values():
        if run.is_teacher and not trains:  # it is only tested
            continue
        now = f'{plan.hash_of(definition, run)} {__version__}'
        if known.get(run.name) == now:
            continue
        weights = run.is_teacher or not trains  # before the teacher is trained it has none
        config = plan.config_of(definition, run)
        few = min(2, config.train_dataloader.batch_size)  # the step of a whole batch may take minutes on a CPU
        with heartbeat(f'checking {run.name}'):
            options = Options(weights=weights, batch=few, val=0, cost=False, command=False)
            report = check_config(config, options, lambda stage: None)
        wrong = [finding for finding in report.findings if finding.level == ERROR]
        if wrong:
            told = ' '.join(f'{finding.message} {finding.advice}'.strip() for finding in wrong)
            raise ValueError(f'{definition.path}: {run.name}: {told}')
        for line in _said(run.name, report):
            print(line, flush=True)
        known = {**known, run.name: now}
        write_json(place, known)


def _said(name: str, report: Report) -> Iterator[str]:
    subject = report.subject
    facts = [f'{subject.pictures} pictures'] if subject.pictures else []
    if subject.student is not None:
        facts.append(f'student {_millions(subject.student.parameters)}')
    teachers = [one for one in subject.teachers if one.parameters]
    facts += [f'{one.key.removeprefix("model.")} {_millions(one.parameters)}' for one in teachers]
    yield f'check    {name}: {report.verdict}; {", ".join(facts)}'
    for start in subject.student.starts if subject.student else ():
        yield f'         student: {start.told(", ")}'
    for one in subject.teachers:
        if one.receipt and one.receipt['file']:
            tensors = f'{one.receipt["matched"]} of {one.receipt["total"]} tensors'
            yield f'         teacher from {one.receipt["file"]}, SHA-256 {str(one.receipt["sha256"])[:8]}, {tensors}'
    pairs = [f'{row.distiller} compares {row.student_tap} with {row.teacher_tap}' for row in subject.taps]
    yield from (f'         {pair}' for pair in dict.fromkeys(pairs))
    for finding in report.findings:
        if finding.level != NOTE:
            yield f'         {finding.level}: {finding.message} {finding.advice}'.rstrip()


def _millions(count: int) -> str:
    return f'{count / 1e6:.2f} M'


def check_metric(config: Config, metric: str, place: str) -> None:
    """Refuse a metric that evaluators of mmseg and mmdet do not return, and evaluators that give no score."""
    for split in ('val_evaluator', 'test_evaluator'):
        several = listed(config.get(split))
        if any(one.get('format_only') for one in several):
            raise ValueError(f'{place}: {split}.format_only=True writes predictions and gives no score: leave it out.')
        if several and not any(may_give(one, metric) for one in several):
            names = set().union(*(scores_of(one) or () for one in several))
            raise ValueError(f'{place}: metric: {unknown(f"score of {split}", metric, names)}')
