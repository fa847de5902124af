"""One run of a suite: trains what is left to train, tests, and writes the result."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import socket
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from functools import partial
from logging import WARNING
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import barrier, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmdistill_dense.apps.commands.training import build_runner
from mmdistill_dense.apps.suite import plan
from mmdistill_dense.apps.suite.definition import Definition
from mmdistill_dense.apps.suite.plan import Run
from mmdistill_dense.datasets.wrapped import count_pictures, label_stamp
from mmdistill_dense.distillers.schedule import in_iterations
from mmdistill_dense.engine.resume import latest_checkpoint
from mmdistill_dense.model.distill_model import distillers_of
from mmdistill_dense.networks.class_pairs import ClassPairs, in_students_classes
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.networks.trace import TeacherOption
from mmdistill_dense.unlabelled.step import unlabelled_of
from mmdistill_dense.utils.distributed import unwrap
from mmdistill_dense.utils.files import owned, read_json, read_progress, save_whole, write_json
from mmdistill_dense.utils.runner_internals import take_weights_from
from mmdistill_dense.utils.version import __version__
from mmdistill_dense.weights.strict_load import read_checkpoint

PACKAGES = ('torch', 'mmengine', 'mmcv', 'mmseg', 'mmdet')


def machine(cuda: bool) -> dict[str, Any]:
    """Return what times depend on: the GPU or the kind of CPU, and the threads."""
    device = torch.cuda.get_device_name() if cuda else f'CPU {platform.machine()}'
    return {'device': device, 'threads': torch.get_num_threads()}


def facts_of(run: Run, config_hash: str) -> dict[str, Any]:
    """Return the name of a run, and the machine and versions it ran on."""
    versions = {name: str(getattr(sys.modules[name], '__version__', '')) for name in PACKAGES if name in sys.modules}
    return {
        'name': run.name,
        'seed': run.seed,
        'config_hash': config_hash,
        'versions': {**versions, 'mmdistill_dense': __version__},
        **machine(torch.cuda.is_available()),
        'processes': get_world_size(),
    }


def training_facts(runner: Runner) -> dict[str, Any]:
    """Return what a training did. Its log is that of all starts, which checkpoints keep."""
    log = {name: kept.data[0].tolist() for name, kept in runner.message_hub.log_scalars.items() if len(kept.data[0])}
    shares = {found[1]: log[name] for name in log if (found := re.fullmatch(r'train/distill\.(.+)\.share', name))}
    teachers = getattr(getattr(unwrap(runner.model), 'distillation', None), 'teachers', {})
    receipts = {str(name): teacher.receipt.as_dict() for name, teacher in teachers.items() if teacher.receipt}
    return {
        'iterations': runner.max_iters,
        'seconds_per_iteration': statistics.median(log['train/time']) if 'train/time' in log else None,
        'teacher': next(iter(receipts.values())) if len(receipts) == 1 else receipts or None,
        'unlabelled': unlabelled_facts(runner),
        'shares': {name: statistics.fmean(values) for name, values in shares.items()},
        'pictures': count_pictures(runner.train_dataloader.dataset),
    }


def data_facts(runner: Runner) -> dict[str, str]:
    """Return the stamp of the label files of each data set, by the hash of its options."""
    loops = {'train': runner.train_loop, 'val': runner.val_loop}
    if not _tests_val(runner.cfg):
        loops['test'] = runner.test_loop
    found = {}
    for name, loop in loops.items():
        options = repr(runner.cfg[f'{name}_dataloader'].dataset)
        with suppress(OSError):  # a label file that is gone by now
            found[hashlib.sha256(options.encode()).hexdigest()[:12]] = label_stamp(loop.dataloader.dataset)
    return found


def unlabelled_facts(runner: Runner) -> dict[str, Any] | None:
    """Return the number of a run's pictures without labels, the hash of their names, ratio, and passes over them."""
    model = unwrap(runner.model)
    second = unlabelled_of(model)
    if second is None or not second.files:
        return None
    end = max(distillers_of(model)[name].schedule.end(runner.max_iters) for name in second.takers)
    steps = min(runner.max_iters, end) - in_iterations(second.option.start, runner.max_iters)
    batch: Any = runner.train_dataloader.batch_sampler
    seen = max(steps, 0) * second.option.count(batch.batch_size) * get_world_size()
    return {**second.files, 'passes': seen / second.files['pictures']}


def plain(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics that are single numbers, as floats."""
    single = {name: value for name, value in metrics.items() if isinstance(value, (int, float)) or _size(value) == 1}
    return {name: float(value) for name, value in single.items()}


def _size(value: Any) -> Any:
    return value.numel() if isinstance(value, torch.Tensor) else getattr(value, 'size', None)


EVERY = 1.0  # seconds between two writes


class Report(Hook):
    """Writes ``state.json`` in a run's folder, as a hook of its training. Of several processes, one has ``write``."""

    priority = 'LOWEST'

    def __init__(self, folder: Path, config_hash: str, processes: int = 1, write: bool = True) -> None:
        self.path = folder / 'state.json'
        before = read_progress(self.path)
        self.write = write
        self.before = float(before.get('seconds', 0.0))  # of earlier starts
        self.start = time.monotonic()
        self.written = -EVERY
        self.failed = False  # to write
        self.metric, self.scale = '', 1.0  # what is told of an evaluation
        self.state: dict[str, Any] = {
            'config_hash': config_hash,
            'processes': processes,
            'restarts': int(before.get('restarts', -1)) + 1,
            'phase': 'starting',
            'iteration': 0,
            'iterations': None,
            'loss': None,
            'pid': os.getpid(),
            'host': socket.gethostname(),
        }
        self.tell(force=True)

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.start

    @property
    def due(self) -> bool:
        """Whether the last write was at least ``EVERY`` seconds ago."""
        return time.monotonic() - self.written >= EVERY

    def tell(self, force: bool = False, **state: Any) -> None:
        """Update the state, and write it if the last write is long enough ago."""
        self.state.update(state)
        if self.write and (force or self.due):
            self.written = time.monotonic()
            state = {**self.state, 'seconds': self.seconds, 'time': time.time()}
            try:
                write_json(self.path, state, lasting=False)
            except OSError as error:  # no reason to end a training
                if not self.failed:
                    print_log(f'The progress of this run cannot be written ({error}). It goes on.', 'current', WARNING)
                self.failed = True

    def after_prepare_iter(self, runner: Runner, done: int, whole: int) -> None:
        self.tell(prepared=done)

    def before_train(self, runner: Runner) -> None:
        place = {'iteration': runner.iter, 'iterations': runner.max_iters}
        self.tell(True, phase='training', **place)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if self.due:  # reading the loss waits for the GPU
            loss = (outputs or {}).get('loss')
            self.tell(iteration=runner.iter + 1, loss=None if loss is None else float(loss.detach()))

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.tell()

    after_test_iter = after_val_iter

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        value = (metrics or {}).get(self.metric)
        if value is not None:
            count = self.state.get('val', {'count': 0})['count'] + 1
            self.tell(True, val={'count': count, 'value': self.scale * float(value)})


# the variables in which launchers give the rank and the number of processes
_PLACES = {
    'pytorch': ('RANK', 'WORLD_SIZE'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE'),
}
PATIENCE = 60.0  # seconds in which a job whose suite was killed ends, and a suite starts


def perform(definition: Definition, run: Run, launcher: str = 'none', patience: float = PATIENCE) -> dict[str, Any]:
    """Do a run or the rest of it, to the same bits; wait ``patience`` seconds for a process that does it."""
    missing = [str(folder) for folder in run.after if read_json(folder / 'result.json') is None]
    if missing:
        raise RuntimeError(f'{run.title} needs results that are not there yet: {", ".join(missing)}')
    rank, processes = place_of(launcher)
    with nullcontext() if rank else owned(run.folder, run.title, patience):
        plan.check_unchanged(definition, [run])
        if run.result is not None:
            return run.result
        check_processes(run, processes)
        return _perform(
            definition, run, launcher, Report(run.folder, plan.hash_of(definition, run), processes, write=rank == 0)
        )


def _perform(definition: Definition, run: Run, launcher: str, report: Report) -> dict[str, Any]:
    config = plan.config_of(definition, run)
    only_test = run.is_teacher and not plan.trains_teacher(definition)
    if report.write and not only_test:
        plan.write_configs(definition, run, config)
    config.launcher = launcher
    found = (
        {**_NOT_TRAINED, 'metrics': test_teacher(_named(config, run))}
        if only_test
        else _train(definition, run, config, report)
    )
    slim = definition.keep == 'weights' and found['checkpoint'] and is_main_process()
    if slim:  # under a name of its own, before the result tells it: until then the run can go on
        content = read_checkpoint(run.folder / found['checkpoint'])
        found['checkpoint'] = f'weights_{found["checkpoint"]}'
        save_whole({key: content[key] for key in ('meta', 'state_dict')}, run.folder / found['checkpoint'])
    times = {'minutes': report.seconds / 60, 'restarts': report.state['restarts']}
    result = {**facts_of(run, report.state['config_hash']), **found, **times}
    result |= {'score': plan.score_of(definition, run, result['metrics']), 'metric': definition.metric}
    if is_main_process():
        report.tell(True, phase='finished')
        write_json(run.folder / 'result.json', result)
        for file in [*run.folder.glob('iter_*.pth'), *run.folder.glob('epoch_*.pth')] if slim else []:
            file.unlink()
    return result


_NOTHING = ('checkpoint', 'seconds_per_iteration', 'teacher', 'unlabelled')
_NOT_TRAINED: dict[str, Any] = {**dict.fromkeys(_NOTHING), 'iterations': 0, 'shares': {}}


def place_of(launcher: str) -> tuple[int, int]:
    """Return this process's rank and the number of processes, from the launcher's environment variables."""
    rank, size = _PLACES.get(launcher, ('', ''))
    return int(os.environ.get(rank, '0')), int(os.environ.get(size, '1'))


def check_processes(run: Run, processes: int) -> None:
    """Refuse a folder made by another number of processes, so with another batch, unless it is a finished teacher."""
    begun = run.state if latest_checkpoint(run.folder) else {}
    found = begun.get('processes') if run.result is None else run.result.get('processes')
    if found in (None, processes) or (run.is_teacher and run.result):
        return
    raise ValueError(
        f'{run.title}: {run.folder} was made by {found} process(es), this would be {processes}: another batch. Go on '
        'as it was begun (`mmdistill suite slurm` starts slurm.processes, `mmdistill suite run` one), set another '
        '`out`, or remove that folder to repeat the run.'
    )


def _train(definition: Definition, run: Run, config: Config, report: Report) -> dict[str, Any]:
    found = latest_checkpoint(run.folder)
    if found is not None:
        config.resume, config.load_from = True, str(found)
    runner = build_runner(_named(config, run))
    report.metric, report.scale = definition.metric, 100.0 if definition.percent else 1.0
    runner.register_hook(report)
    report.tell(True, phase='preparing')
    runner.train()
    facts = training_facts(runner)
    barrier()  # the first process writes the file
    last = latest_checkpoint(run.folder)
    assert last is not None, 'a checkpoint is saved at the end'
    report.tell(True, phase='testing')
    take_weights_from(runner, str(last))  # with EMA, only the file holds the averaged ones
    metrics = _scores(runner)
    facts['data'] = data_facts(runner) if is_main_process() else {}
    return {'metrics': metrics, 'test_is_val': _tests_val(config), 'checkpoint': last.name, **facts}


def _scores(runner: Runner) -> dict[str, dict[str, float]]:
    val = plain(runner.val())
    return {'test': val if _tests_val(runner.cfg) else plain(runner.test()), 'val': val}


def _named(config: Config, run: Run) -> Config:
    """Return the config with another file name, so that the runner does not overwrite ``run.py``."""
    named = Config(config.to_dict(), cfg_text=config.text, filename=str(run.folder / 'config.py'))
    named.experiment_name = f'{run.folder.name}_{run.name}_{os.getpid()}_{id(named)}'
    return named


def test_teacher(config: Config) -> dict[str, Any]:
    """Return the scores of the pair's teacher, loaded as strictly as for distillation."""
    config.load_from = None
    runner = build_runner(config)
    teacher = FrozenTeacher(TeacherOption.parse(config.model.teacher))
    teacher.load(next(runner.model.parameters()))
    network: Any = teacher.network
    if teacher.option.classes is not None:
        teacher.match_classes(runner.val_loop.dataloader.dataset.metainfo['classes'])
        for name in ('val_step', 'test_step'):
            setattr(network, name, partial(_step_by_pairs, getattr(network, name), teacher.pairs))
    runner.model = network
    return _scores(runner)


def _step_by_pairs(step: Callable[[Any], Any], pairs: ClassPairs | None, batch: Any) -> Any:
    assert pairs is not None, 'the classes are matched'
    return in_students_classes(step(batch), pairs)


def _tests_val(config: Config) -> bool:
    """Tell whether test and val are the same pictures, as for Cityscapes, whose test labels are not public."""
    pairs = (('val_dataloader', 'test_dataloader'), ('val_evaluator', 'test_evaluator'))
    whole = config.to_dict()
    return all(whole.get(val) == whole.get(test) for val, test in pairs)
