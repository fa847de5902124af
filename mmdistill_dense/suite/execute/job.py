"""One run of a suite: trains what is left to train, tests, and writes the result."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import barrier, is_main_process
from mmengine.runner import Runner

from mmdistill_dense.config.pretrained import without_pretrained
from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.engine.commands import build_runner
from mmdistill_dense.engine.resume_file import latest_checkpoint
from mmdistill_dense.networks.building import TEACHER_OPTIONS
from mmdistill_dense.suite.definition.definition import Definition
from mmdistill_dense.suite.execute.report_hook import Report, ReportHook, StepClock
from mmdistill_dense.suite.execute.result import (
    learning_of,
    median_of,
    origin_of,
    plain,
    receipts_of,
    shares_of,
    unlabelled_of,
)
from mmdistill_dense.suite.plan import start_weights
from mmdistill_dense.suite.plan.plan import config_of, hash_of, start_file, start_of, trains_teacher
from mmdistill_dense.suite.plan.run_configs import write_configs
from mmdistill_dense.suite.plan.runs import PRETRAIN, Run
from mmdistill_dense.utils.atomic import read_json, write_json
from mmdistill_dense.utils.distributed import unwrap
from mmdistill_dense.utils.folder_lock import owned
from mmdistill_dense.utils.runner_internals import take_weights_from
from mmdistill_dense.weights.locate import local_file
from mmdistill_dense.weights.strict_load import load_strictly, read_checkpoint, state_dict_of

# the variables in which launchers give the rank and the number of processes
_PLACES = {
    'pytorch': ('RANK', 'WORLD_SIZE'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE'),
}
PATIENCE = 60.0  # seconds in which a job whose suite was killed ends


def perform(definition: Definition, run: Run, launcher: str = 'none') -> dict[str, Any]:
    """Do a run or the rest of it, and return its result.

    A finished run is not repeated. A stopped run goes on from its last whole checkpoint and ends with the same bits.
    """
    missing = [str(folder) for folder in run.after if read_json(folder / 'result.json') is None]
    if missing:
        raise RuntimeError(f'{run.title} needs results that are not there yet: {", ".join(missing)}')
    if place_of(launcher)[0]:
        return _perform(definition, run, launcher)
    with owned(run.folder, run.title, PATIENCE):
        return _perform(definition, run, launcher)


def _perform(definition: Definition, run: Run, launcher: str) -> dict[str, Any]:
    expected = hash_of(definition, run)
    rank, processes = place_of(launcher)
    check_unchanged(run, expected)
    if run.result is not None:
        return run.result
    check_processes(run, processes)
    config = config_of(definition, run)
    only_test = run.kind == 'teacher' and not trains_teacher(definition)
    report = Report(run.folder, expected, processes, write=rank == 0)
    if report.write and not only_test:
        write_configs(definition, run, config)
    config.launcher = launcher
    if only_test:
        found = {'metrics': _test_teacher(config), 'checkpoint': None, 'iterations': 0, **_NOT_TRAINED}
    else:
        found = _train(definition, run, config, report)
    result = {**origin_of(run, expected), **found, 'minutes': report.seconds / 60, 'restarts': report.state['restarts']}
    result['score'] = None if run.kind == PRETRAIN else score_of(definition, run, result['metrics'])
    if is_main_process():
        report.tell(True, phase='finished')
        write_json(run.folder / 'result.json', result)
    return result


_NOTHING = dict.fromkeys(('seconds_per_iteration', 'teacher', 'unlabelled', 'start'))
_NOT_TRAINED: dict[str, Any] = {**_NOTHING, 'shares': {}}


def place_of(launcher: str) -> tuple[int, int]:
    """Return this process's rank and the number of processes, from the launcher's environment variables."""
    rank, size = _PLACES.get(launcher, ('', ''))
    return int(os.environ.get(rank, '0')), int(os.environ.get(size, '1'))


def check_unchanged(run: Run, expected: str) -> None:
    """Refuse a folder with a result or checkpoints of another config."""
    begun = run.state if latest_checkpoint(run.folder) else None
    for content in (run.result, begun):
        found = (content or {}).get('config_hash')
        if found not in (None, expected):
            raise ValueError(
                f'{run.title}: {run.folder} was made with config {found}, the definition now gives {expected}. Undo '
                'the change, set another `out`, or give the same command --rerun-changed, which repeats changed runs.'
            )


def check_processes(run: Run, processes: int) -> None:
    """Refuse a folder made by another number of processes, and so with another batch.

    A finished teacher is exempt: all students share it.
    """
    begun = run.state if latest_checkpoint(run.folder) else {}
    found = begun.get('processes') if run.result is None else run.result.get('processes')
    if found in (None, processes) or (run.kind == 'teacher' and run.result):
        return
    raise ValueError(
        f'{run.title}: {run.folder} was made by {found} process(es), this would be {processes}: another batch, so '
        'one table cannot hold both. Continue as it was begun (`suite.py slurm` starts slurm.processes, `suite.py run` '
        'starts one), set another `out`, or give the same command --rerun-changed, which repeats such runs.'
    )


def _train(definition: Definition, run: Run, config: Config, report: Report) -> dict[str, Any]:
    start, file, started = start_of(definition, run.name), start_file(definition, run), None
    if start is not None and file is not None:  # mmengine would load what fits, and only warn
        started = start_weights.check_file(config, start, file)
    found = latest_checkpoint(run.folder)
    if found is not None:
        config.resume, config.load_from = True, str(found)
    runner = build_runner(_named(config, run))
    runner.register_hook(ReportHook(report))
    runner.register_hook(StepClock(report))
    report.tell(True, phase='preparing')
    runner.train()
    trained = {
        'iterations': runner.max_iters,
        'seconds_per_iteration': median_of(runner, 'train/time'),
        'teacher': receipts_of(runner),
        'unlabelled': unlabelled_of(runner),
        'start': started,
        'shares': shares_of(runner),
        'pictures': len(runner.train_dataloader.dataset),
        'spent': report.spent({'train': runner.max_iters, 'prepare': learning_of(runner)}),
    }
    if run.kind == PRETRAIN:
        barrier()
        return {'metrics': {}, 'checkpoint': _last_of(run.folder).name, **trained}
    report.tell(True, phase='testing')
    last = _load_last(runner, run.folder)
    val = dict(runner.val())
    same = _tests_val(config)
    test = {} if run.kind == 'search' else val if same else dict(runner.test())
    return {
        'metrics': {'test': plain(test), 'val': plain(val)},
        'test_is_val': same,
        'checkpoint': last.name,
        **trained,
    }


def _load_last(runner: Runner, folder: Path) -> Path:
    """Load the last checkpoint for the test. With EMA, only the file holds the averaged weights."""
    barrier()  # the first process writes the file
    last = _last_of(folder)
    take_weights_from(runner, str(last))
    return last


def _last_of(folder: Path) -> Path:
    last = latest_checkpoint(folder)
    assert last is not None, 'a checkpoint is saved after the last iteration'
    return last


def _named(config: Config, run: Run) -> Config:
    """Return the config with another file name, so that the runner does not overwrite ``run.py``."""
    named = Config(config.to_dict(), cfg_text=config.text, filename=str(run.folder / 'config.py'))
    named.experiment_name = f'{run.kind}_{run.folder.name}_{run.name.replace("/", "_")}_{os.getpid()}_{id(named)}'
    return named


def _test_teacher(config: Config) -> dict[str, Any]:
    """Return the scores of the pair's teacher, loaded as strictly as for distillation."""
    model = config.model.teacher
    path = local_file(str(model.get('checkpoint')), model.get('cfg'), 'model.teacher.checkpoint')
    config.model = _teacher_network(model)
    config.load_from = None
    runner = build_runner(config)
    state = state_dict_of(read_checkpoint(path), path)
    load_strictly(unwrap(runner.model), state, None, f'model.teacher.checkpoint={str(path)!r}')
    val = dict(runner.val())
    return {'val': plain(val), 'test': plain(val if _tests_val(config) else dict(runner.test()))}


def _teacher_network(option: Mapping[str, Any]) -> Any:
    found = load_model({key: value for key, value in option.items() if key not in TEACHER_OPTIONS}, 'model.teacher')
    model = without_pretrained(found.model)
    return {**model, '_scope_': found.scope} if found.scope else model


def _tests_val(config: Config) -> bool:
    """Tell whether test and val are the same pictures, as for Cityscapes, whose test labels are not public."""
    pairs = (('val_dataloader', 'test_dataloader'), ('val_evaluator', 'test_evaluator'))
    whole = config.to_dict()
    return all(whole.get(val) == whole.get(test) for val, test in pairs)


def score_of(definition: Definition, run: Run, metrics: Mapping[str, Mapping[str, float]]) -> float:
    """Return the score of a run in percent, on test, or on val for a search."""
    found = metrics['val' if run.kind == 'search' else 'test']
    if not found:  # mmdet returns no metric for a detector without a single detection
        return 0.0
    if definition.metric not in found:
        raise KeyError(
            f'{definition.path}: metric={definition.metric!r} is not in the result of the test: {", ".join(found)}'
        )
    return found[definition.metric] * (100.0 if definition.percent else 1.0)
