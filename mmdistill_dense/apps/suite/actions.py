"""What the commands of ``suite`` do."""

import argparse
import copy
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from rich.console import Console
from rich.table import Table

from mmdistill_dense.apps.check.context import Options
from mmdistill_dense.apps.check.run import CheckReport, check_config
from mmdistill_dense.apps.recipes import compose
from mmdistill_dense.apps.suite import configs, plan
from mmdistill_dense.apps.suite.definition import Definition, error_prefix, load_suite
from mmdistill_dense.apps.suite.job import LOCK_TIMEOUT, execute_run
from mmdistill_dense.apps.suite.plan import Resolved, Run
from mmdistill_dense.apps.suite.pool import Pool, end_with_parent, job_words
from mmdistill_dense.apps.suite.table import write_table
from mmdistill_dense.config.local_code import local_code
from mmdistill_dense.config.resolve import reading_once
from mmdistill_dense.config.values import evaluator_scores, listed, may_give
from mmdistill_dense.guards.findings import ERROR, NOTE
from mmdistill_dense.networks.building import building_once
from mmdistill_dense.utils.files import FolderInUse, in_use, owned, read_json, write_json
from mmdistill_dense.utils.process import cores, errors_only, heartbeat, threads_asked_for
from mmdistill_dense.utils.version import __version__


def suite_run(args: argparse.Namespace) -> int:
    with reading_once():
        definition = load_suite(args.definition)
        jobs, threads = args.jobs or definition.jobs, args.threads or definition.threads
        return train_all(replace(definition, jobs=jobs, threads=threads), args.only, args.seeds)


def train_all(
    definition: Definition,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    on_run_end: Callable[[], None] = lambda: None,  # called when a run has ended
) -> int:
    """Do all unfinished runs, or those of some rows and seeds; return 1 if one failed, 130 after an interruption."""
    # each config is resolved once and written when its run begins: what is changed meanwhile does not reach the runs
    threads = definition.threads or threads_asked_for() or max(1, cores() // definition.jobs)
    try:
        with reading_once():
            chosen = plan.select(definition, only, seeds)
            with owned(definition.out, f'the start of suite {definition.title!r}', LOCK_TIMEOUT), errors_only():
                todo = plan.resolved(definition, plan.unfinished(definition, chosen))
                plan.check_batch(definition, todo, 1)
            print(f'{definition.title}: {len(chosen)} runs, {len(todo)} to do, in {definition.out}', flush=True)
            check_rows(definition, todo)

        @cache  # a run that stalled goes on as it began
        def begin(run: Run) -> list[str]:
            plan.write_config(run, *todo[run])
            return [sys.executable, '-m', 'mmdistill_dense', 'suite', *job_words(definition.path, run), '--attended']

        pool = Pool(begin, definition.jobs, threads, partial(print, flush=True), on_run_end, definition.stall)
        failed = pool.execute(list(todo))
    except KeyboardInterrupt:
        print('stopped; the same command continues from the last checkpoints', flush=True)
        return 130
    for title, reason in failed.items():
        print(f'\n{title} {reason}', flush=True)
    return int(bool(failed))


# The check of the rows before the first run starts


@building_once()
def check_rows(definition: Definition, todo: Resolved) -> None:
    """Check each row as ``mmdistill check`` does, unless it, or one that differs in its rate alone, passed before."""
    path = definition.out / 'checked.json'
    hashes = read_json(path) or {}
    for name, changes in definition.test_sets.items() if todo else ():
        config = configs.with_test_set(configs.control_config(definition), changes)
        scope = DefaultScope.overwrite_default_scope(config.get('default_scope'))
        with error_prefix(f'{definition.path}: test_sets.{name}'), scope:
            if not len(DATASETS.build(config.test_dataloader.dataset)):
                raise ValueError('the set has no pictures: its keys change the test set of the control.')
    backbones = dict[Path, dict[str, Sequence[int]]]()
    for run, (config, _) in todo.items():
        check_metric(config, definition.metric, str(definition.path))
        without_rates = copy.deepcopy(config)
        with suppress(ValueError):  # an optimizer without a rate
            configs.scale_rate(without_rates, 0.0, run.name)
        digest = f'{plan.hash_of(definition, run, without_rates)} {configs.networks_hash(config)} {__version__}'
        digest += f'{local_code(config) or ""} {run.teacher is None}'
        if (run.is_teacher and not plan.trains_teacher(definition)) or digest in hashes.values():
            continue  # an existing teacher is only tested
        # the step of a whole batch may take minutes on a CPU; a teacher that the suite trains has no file yet
        few = min(2, config.train_dataloader.batch_size)
        if run.pretraining in run.missing:  # it starts from weights that the suite has still to train
            config = copy.deepcopy(config)
            config.model.student.backbone.init_cfg = None
        options = Options(batch=few, val=0, command=False, teachers=run.teacher is None)
        with heartbeat(f'checking {run.name}'):
            report = check_config(config, options, lambda stage: None)
        if wrong := [finding for finding in report.findings if finding.level == ERROR]:
            problems = ' '.join(f'{finding.message} {finding.advice}'.strip() for finding in wrong)
            raise ValueError(f'{definition.path}: {run.name}: {problems}')
        print('\n'.join(_summary_lines(run.name, report)), flush=True)
        backbone = getattr(report.context.model, 'backbone', None)
        tensors = {} if backbone is None else backbone.state_dict()
        backbones[run.folder] = {key: tensor.shape for key, tensor in tensors.items()}
        if run.pretraining in backbones and backbones[run.pretraining] != backbones[run.folder]:
            problem = 'its backbone has other tensors than that of the student, which could not start from it'
            raise ValueError(f'{definition.path}: methods.{run.name}.pretrain: {problem}.')
        hashes = {**hashes, run.name: digest}
        write_json(path, hashes)


def _summary_lines(name: str, report: CheckReport) -> list[str]:
    context, student = report.context, report.context.student
    facts = [f'{context.pictures} pictures'] if context.pictures else []
    facts += [f'student {student.parameters / 1e6:.2f} M parameters'] if student else []
    sizes = {teacher.key.removeprefix('model.'): teacher.parameters for teacher in context.teachers}
    facts += [f'{key} {parameters / 1e6:.2f} M' for key, parameters in sizes.items() if parameters]
    lines = [f'student: {start}' for start in (student.starts if student else ())]
    lines += [f'teacher from {origin}' for teacher in context.teachers if (origin := teacher.describe())]
    lines += dict.fromkeys(f'{row.distiller} compares {row.student_tap} with {row.teacher_tap}' for row in context.taps)
    findings = (finding for finding in report.findings if finding.level != NOTE)
    lines += [f'{finding.level}: {finding.message} {finding.advice}'.rstrip() for finding in findings]
    return [f'check    {name}: {report.verdict}; {", ".join(facts)}', *(f'         {line}' for line in lines)]


def check_metric(config: Config, metric: str, path: str) -> None:
    """Refuse a metric that evaluators of mmseg and mmdet do not return, and evaluators that give no score."""
    for split in ('val_evaluator', 'test_evaluator'):
        evaluators = listed(config.get(split))
        if any(evaluator.get('format_only') for evaluator in evaluators):
            raise ValueError(f'{path}: {split}.format_only=True writes predictions and gives no score: leave it out.')
        if evaluators and not any(may_give(evaluator, metric) for evaluator in evaluators):
            names = set().union(*(evaluator_scores(evaluator) or () for evaluator in evaluators))
            raise ValueError(f'{path}: metric: {compose.unknown(f"score of {split}", metric, names)}')


# The other commands


def suite_job(args: argparse.Namespace) -> None:
    if args.attended:
        end_with_parent()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    with reading_once():
        definition = load_suite(args.definition)
        run = find_run(definition, args.name, args.seed)
        args.raises = True  # from here on: the log of a job keeps all
        try:
            result = execute_run(definition, run, args.launcher, args.attended)
        except FolderInUse as error:
            if not args.attended:
                raise
            print(error)
            raise SystemExit(os.EX_TEMPFAIL) from error  # the pool tries another one
    score = f'{definition.metric} {result["score"]:.2f}' if 'score' in result else 'done'
    print(f'{args.name}: {score}', flush=True)
    if args.attended:  # without the seconds that the interpreter takes to clean up
        os._exit(0)


def find_run(definition: Definition, name: str, seed: int | None) -> Run:
    runs = plan.runs(definition)
    problem = compose.unknown('row', name, {run.name for run in runs})
    if row_runs := [run for run in runs if run.name == name]:
        for run in row_runs:
            if seed == run.seed or (seed is None and (run.is_teacher or run.is_pretraining)):
                return run
        problem = f'{name} has no run with --seed {seed}, but {", ".join(run.title for run in row_runs)}'
    raise ValueError(f'{definition.path}: {problem}')


@errors_only()
def suite_list(args: argparse.Namespace) -> None:
    console = Console(file=sys.stdout)
    if args.definition is None:
        fitting = {recipe.stem: compose.fitting_methods(recipe) for recipe in compose.recipes()}
        table = Table('method', 'recipes that it fits', 'for instance')
        for method in compose.methods():
            names = [name for name, methods in fitting.items() if method in methods]
            table.add_row(method, str(len(names)), ', '.join(names[:2]))
        console.print(table)
        return
    definition = load_suite(args.definition)
    others = {*compose.fitting_methods(definition.control)} - {method.method for method in definition.methods.values()}
    console.print(f'{definition.title}: control {definition.control.stem}, {definition.metric}, in {definition.out}')
    console.print(f'methods: {", ".join(definition.methods)}; others that fit: {", ".join(sorted(others)) or "none"}')
    table = Table('run', 'state', definition.metric)
    for run in plan.runs(definition):
        result = run.result if run.is_pretraining else plan.scored(definition, run)
        score = f'{result["score"]:.2f}' if result and 'score' in result else ''
        table.add_row(run.title, _progress(run) if result is None else 'finished', score)
    console.print(table)


def _progress(run: Run) -> str:
    if not (state := run.state):
        return 'waits'
    done = f'{state.get("iteration")}/{state.get("iterations") or "?"}'
    if not in_use(run.folder):
        return f'FAILED at {done}: {state["failed"]}' if 'failed' in state else f'stopped at {done}'
    silent = time.time() - state.get('time', time.time())
    silence = f', no word for {round(silent / 60)} min' if silent > 120 else ''
    return f'{state.get("phase")}, {done} on {state.get("host")}{silence}'


@errors_only()
def suite_table(args: argparse.Namespace) -> None:
    with reading_once():
        write_table(load_suite(args.definition), args.out)
