"""One run of a suite: trains what is left to train, tests, and writes the result."""

import os
import platform
import re
import socket
import statistics
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from logging import WARNING
from pathlib import Path
from typing import Any, cast

import torch
from mmengine.config import Config
from mmengine.dist import barrier, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import LOOPS
from mmengine.runner import Runner

from mmdistill_dense.apps.recipes.compose import header_remark
from mmdistill_dense.apps.suite import configs, plan
from mmdistill_dense.apps.suite.definition import Definition
from mmdistill_dense.apps.suite.plan import Run
from mmdistill_dense.apps.training import build_runner
from mmdistill_dense.config.local_code import local_code
from mmdistill_dense.config.resolve import read_file
from mmdistill_dense.datasets.wrapped import label_stamp
from mmdistill_dense.distillers.schedule import in_iterations
from mmdistill_dense.engine.interruption import save_step
from mmdistill_dense.engine.work_folder import latest_checkpoint
from mmdistill_dense.guards.config import pretrained_parts
from mmdistill_dense.model.distill_model import distillers_of
from mmdistill_dense.networks.class_pairs import ClassPairs, in_students_classes
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.networks.trace import TeacherOption
from mmdistill_dense.unlabelled.step import unlabelled_of
from mmdistill_dense.utils.distributed import unwrap
from mmdistill_dense.utils.files import owned, read_progress, save_whole, write_json
from mmdistill_dense.utils.generators import Generators
from mmdistill_dense.utils.runner_internals import between_steps, start_from
from mmdistill_dense.utils.version import __version__
from mmdistill_dense.weights.strict_load import read_checkpoint, sha256

PACKAGES = ('torch', 'mmengine', 'mmcv', 'mmseg', 'mmdet')
WRITE_INTERVAL = 1.0  # seconds between two writes
LOCK_TIMEOUT = 60.0  # seconds in which a job whose suite was killed ends, and a suite starts
SAVE_INTERVAL = 600.0  # seconds between checkpoints, which a power cut may lose; the config may ask for more


def facts_of(run: Run, config: Config, config_hash: str) -> dict[str, Any]:
    """Return name, code and versions of a run, and what times depend on: the GPU or kind of CPU, and the threads."""
    versions = {name: str(getattr(sys.modules[name], '__version__', '')) for name in PACKAGES if name in sys.modules}
    return {
        'name': run.name,
        'seed': run.seed,
        'config_hash': config_hash,
        'code': local_code(config),
        'versions': {**versions, 'mmdistill_dense': __version__},
        'device': torch.cuda.get_device_name() if torch.cuda.is_available() else f'CPU {platform.machine()}',
        'threads': torch.get_num_threads(),
        'processes': get_world_size(),
    }


def training_facts(runner: Runner) -> dict[str, Any]:
    """Return what a training did. Its log is that of all starts, which checkpoints keep."""
    histories = {name: buffer.data[0] for name, buffer in runner.message_hub.log_scalars.items()}
    log = {name: history.tolist() for name, history in histories.items() if len(history)}
    shares = {match[1]: log[name] for name in log if (match := re.fullmatch(r'train/distill\.(.+)\.share', name))}
    teachers = getattr(getattr(unwrap(runner.model), 'distillation', None), 'teachers', {})
    receipts = {str(name): teacher.receipt.as_dict() for name, teacher in teachers.items() if teacher.receipt}
    return {
        'iterations': runner.max_iters,
        'seconds_per_iteration': statistics.median(log['train/time']) if 'train/time' in log else None,
        'teacher': next(iter(receipts.values())) if len(receipts) == 1 else receipts or None,
        'unlabelled': unlabelled_facts(runner),
        'unseeded': Generators([runner.train_dataloader.dataset, runner.train_dataloader.collate_fn]).unseeded(),
        'shares': {name: statistics.fmean(values) for name, values in shares.items()},
    }


def start_stamps(run: Run, runner: Runner) -> dict[str, str]:
    """Return digits of the files with the first weights of a student: of each by its path, and of all by the row."""
    # a pre-training of the suite may be repeated, to the same weights in another file
    paths = [] if run.pretraining else [path for _, _, path, _ in pretrained_parts(unwrap(runner.model))]
    files = {path for path in (*paths, str(runner.cfg.get('load_from'))) if os.path.isfile(path)}
    digits = {f'start {path}': sha256(Path(path))[:12] for path in sorted(files)}
    return {**digits, f'start of {run.name}': ' '.join(sorted(digits.values()))} if digits else {}


def unlabelled_facts(runner: Runner) -> dict[str, Any] | None:
    """Return the number of a run's pictures without labels, the hash of their names, ratio, and passes over them."""
    model = unwrap(runner.model)
    if (second := unlabelled_of(model)) is None or not second.files:
        return None
    end = max(distillers_of(model)[name].schedule.end(runner.max_iters) for name in second.takers)
    steps = min(runner.max_iters, end) - in_iterations(second.option.start, runner.max_iters)
    batch: Any = runner.train_dataloader.batch_sampler
    samples = max(steps, 0) * second.option.count(batch.batch_size) * get_world_size()
    return {**second.files, 'passes': samples / second.files['pictures']}


def single_numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics that are single numbers, as floats."""
    scalars = {}
    for name, value in metrics.items():
        with suppress(RuntimeError, TypeError, ValueError):  # several numbers, or none
            if not isinstance(value, (str, bytes)):
                scalars[name] = float(value.item() if hasattr(value, 'item') else value)
    return scalars


class Progress(Hook):
    """Writes ``state.json`` in a run's folder, as a hook of its training. Of several processes, one has ``write``."""

    priority = 'LOWEST'

    def __init__(self, folder: Path, config_hash: str, processes: int = 1, write: bool = True) -> None:
        self.path = folder / 'state.json'
        before = read_progress(self.path)
        self.write, self.failed, self.written = write, False, -WRITE_INTERVAL
        self.before = float(before.get('seconds', 0.0))  # of earlier starts
        self.start = self.saved = time.monotonic()
        # `labels` is the stamp of the training set's labels, `starts` are those of the files with its first weights
        made = {'config_hash': config_hash, 'processes': processes, 'restarts': int(before.get('restarts', -1)) + 1}
        step = {'phase': 'starting', 'iteration': 0, 'iterations': None}
        stamps = {'labels': before.get('labels'), 'starts': before.get('starts')}
        self.state: dict[str, Any] = {**made, **step, **stamps, 'pid': os.getpid(), 'host': socket.gethostname()}
        self.tell(force=True)

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.start

    def tell(self, force: bool = False, outputs: Mapping[str, Any] | None = None, **state: Any) -> None:
        """Update the state, and write it with the loss if the last write is long enough ago."""
        self.state.update(state)
        if self.write and (force or time.monotonic() - self.written >= WRITE_INTERVAL):
            self.written = time.monotonic()
            if outputs and 'loss' in outputs:  # reading it waits for the GPU
                self.state['loss'] = float(outputs['loss'])
            state = {**self.state, 'seconds': self.seconds, 'time': time.time()}
            try:
                write_json(self.path, state, lasting=False)
            except OSError as error:  # no reason to end a training
                if not self.failed:
                    print_log(f'The progress of this run cannot be written ({error}). It goes on.', 'current', WARNING)
                self.failed = True

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Name the best checkpoint in this folder: of a copied project, mmengine would remove the original's."""
        info = (checkpoint.get('message_hub') or {}).get('runtime_info') or {}
        for key in [key for key in info if key.startswith('best_ckpt')]:
            info[key] = str(self.path.absolute().parent / Path(info[key]).name)

    def before_train(self, runner: Runner) -> None:
        """Refuse to go on with other labels: the folder of the data may have been moved, and may hold others now."""
        labels = before = self.state['labels']
        with suppress(OSError):
            labels = label_stamp(runner.train_dataloader.dataset)
        if runner.iter and before not in (None, labels):
            problem = f'{self.path.parent} was begun with other label files than train_dataloader.dataset reads now'
            raise ValueError(f'{problem}. Undo the change, or remove that folder to repeat the run.')
        self.tell(True, phase='training', iteration=runner.iter, iterations=runner.max_iters, labels=labels)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        self.tell(outputs=outputs, iteration=runner.iter + 1)
        if time.monotonic() - self.saved >= SAVE_INTERVAL and self.state['processes'] == 1 and between_steps(runner):
            kept = runner.cfg.default_hooks.checkpoint.max_keep_ckpts
            if kept <= configs.KEPT_CHECKPOINTS:  # of so few, another one does no harm
                save_step(runner, runner.iter + 1)
                self.saved = time.monotonic()

    def after_prepare_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        self.tell()

    after_val_iter = after_test_iter = after_prepare_iter


def execute_run(definition: Definition, run: Run, launcher: str = 'none', attended: bool = False) -> dict[str, Any]:
    """Do a run or the rest of it, to the same bits; ``attended``: the suite has checked and written its config."""
    if missing := run.missing:
        raise RuntimeError(f'{run.title} needs results that are not there yet: {", ".join(map(str, missing))}')
    rank, processes = rank_and_size(launcher)
    # an attended run leaves a folder in which another process works at once, others wait for its end
    with nullcontext() if rank else owned(run.folder, run.title, 0.0 if attended else LOCK_TIMEOUT):
        if not attended:
            plan.check_unchanged(definition, [run])
        if run.result is not None:
            return run.result
        if attended:
            config, config_hash = read_file(run.file), str(header_remark(run.file, 'config_hash'))
            plan.check_code(run, config)  # the suite read it when it began
        else:
            plan.check_processes(run, processes)
            config, config_hash = plan.resolved(definition, [run])[run]
        progress = Progress(run.folder, config_hash, processes, write=rank == 0)
        if rank == 0 and not attended:
            plan.write_config(run, config, config_hash)
        config.launcher = launcher
        if run.is_teacher and not plan.trains_teacher(definition):
            facts = test_teacher(_runner_config(config, run), definition)
        else:
            facts = _train(run, config, progress, definition)
        slim = definition.keep == 'weights' and facts['checkpoint'] and is_main_process()
        if slim:  # under a name of its own, before the result tells it: until then the run can go on
            content = read_checkpoint(run.folder / facts['checkpoint'])
            facts['checkpoint'] = f'weights_{facts["checkpoint"]}'
            save_whole({key: content[key] for key in ('meta', 'state_dict')}, run.folder / facts['checkpoint'])
        times = {'minutes': progress.seconds / 60, 'restarts': progress.state['restarts']}
        result = {**facts_of(run, config, config_hash), **facts, **times}
        if not run.is_pretraining:
            result |= {'score': plan.score_of(definition, result['metrics']), 'metric': definition.metric}
        if is_main_process():
            progress.tell(True, phase='finished')
            write_json(run.folder / 'result.json', result)
            for file in [*run.folder.glob('iter_*.pth'), *run.folder.glob('epoch_*.pth')] if slim else []:
                file.unlink()
    return result


def rank_and_size(launcher: str) -> tuple[int, int]:
    """Return this process's rank and the number of processes, from the launcher's environment variables."""
    mpi = 'OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE'
    variables = {'pytorch': ('RANK', 'WORLD_SIZE'), 'slurm': ('SLURM_PROCID', 'SLURM_NTASKS'), 'mpi': mpi}
    rank, size = variables.get(launcher, ('', ''))
    return int(os.environ.get(rank, '0')), int(os.environ.get(size, '1'))


def _train(run: Run, config: Config, progress: Progress, definition: Definition) -> dict[str, Any]:
    checkpoint = latest_checkpoint(run.folder)
    if checkpoint is not None:
        config.resume, config.load_from = True, str(checkpoint)
    runner = build_runner(_runner_config(config, run))
    if checkpoint is None:
        progress.state['starts'] = start_stamps(run, runner)
    runner.register_hook(progress)
    progress.tell(True, phase='preparing')
    runner.train()
    facts = training_facts(runner)
    barrier()  # the first process writes the file
    last = latest_checkpoint(run.folder)
    assert last is not None, 'a checkpoint is saved at the end'
    if run.is_pretraining:
        return {'checkpoint': last.name, **facts}
    progress.tell(True, phase='testing')
    start_from(runner, str(last), resume=False)  # with EMA, only the file holds the averaged ones
    facts |= _scores(runner, definition)
    splits = ('train', 'val') if _tests_val(runner.cfg) else ('train', 'val', 'test')
    for split in splits if is_main_process() else ():
        with suppress(OSError):  # a label file that is gone by now
            digits = configs.options_hash(runner.cfg[f'{split}_dataloader'].dataset, plan.portable_in(definition))
            facts['data'][digits] = label_stamp(getattr(runner, f'{split}_loop').dataloader.dataset)
    facts['data'] |= progress.state['starts'] or {}  # none of a run that an earlier version began
    return {'test_is_val': _tests_val(config), 'checkpoint': last.name, **facts}


def _scores(runner: Runner, definition: Definition) -> dict[str, Any]:
    """Return ``metrics`` by data set, and as ``data`` what stands for the pictures of each further one."""
    data = {}
    val = single_numbers(runner.val())
    metrics = {'test': val if _tests_val(runner.cfg) else single_numbers(runner.test()), 'val': val}
    for name, changes in definition.test_sets.items():
        config = configs.with_test_set(runner.cfg, changes)
        defaults = {'runner': runner, 'dataloader': config.test_dataloader, 'evaluator': config.test_evaluator}
        loop = LOOPS.build({'type': 'TestLoop', **config.test_cfg}, default_args=defaults)
        metrics[name] = single_numbers(loop.run())
        with suppress(OSError):  # labels that are no files here
            stamp = label_stamp(loop.dataloader.dataset)
            data[f'test_sets.{name}'] = f'{configs.options_hash(changes, plan.portable_in(definition))} {stamp}'
    return {'metrics': metrics, 'data': data}


def _runner_config(config: Config, run: Run) -> Config:
    """Return the config with another file name, so that the runner does not overwrite ``run.py``."""
    # for distillers at the top, each process would read that file, which the first one may be writing
    values = {key: value for key, value in config.to_dict().items() if key != 'distillers'}
    runner_config = Config(values, cfg_text=config.text, filename=str(run.folder / 'config.py'))
    runner_config.experiment_name = f'{run.folder.name}_{run.name}_{os.getpid()}_{id(runner_config)}'
    return runner_config


def test_teacher(config: Config, definition: Definition) -> dict[str, Any]:
    """Return the facts of the pair's teacher, which is only tested, and loaded as strictly as for distillation."""
    config.load_from = None
    runner = build_runner(config)
    teacher = FrozenTeacher(TeacherOption.parse(config.model.teacher))
    teacher.load(next(runner.model.parameters()))
    runner.model = network = cast('Any', teacher.network)
    if teacher.option.classes is not None:
        teacher.match_classes(runner.val_loop.dataloader.dataset.metainfo['classes'])
        pairs = cast('ClassPairs', teacher.pairs)
        for name, step in (('val_step', network.val_step), ('test_step', network.test_step)):
            setattr(network, name, lambda batch, step=step: in_students_classes(step(batch), pairs))
    nothing = dict.fromkeys(('checkpoint', 'seconds_per_iteration', 'teacher', 'unlabelled'))
    return {'iterations': 0, 'shares': {}, **_scores(runner, definition), **nothing}


def _tests_val(config: Config) -> bool:
    """Tell whether test and val are the same pictures, as for Cityscapes, whose test labels are not public."""
    whole = config.to_dict()
    return all(whole.get(f'val_{part}') == whole.get(f'test_{part}') for part in ('dataloader', 'evaluator'))
