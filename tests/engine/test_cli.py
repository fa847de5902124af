"""``train`` and ``test``: real runs of a tiny model, what their options do to a config, and their last word."""

import argparse
import linecache
import logging
import os
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import mmseg
import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Dataset

import mmdistill_dense
from mmdistill_dense.__main__ import main
from mmdistill_dense.apps import training as commands
from mmdistill_dense.apps.options import add_common, start_processes
from mmdistill_dense.config.unknown_keys import check_known
from mmdistill_dense.utils.process import known_mistake
from mmdistill_dense.utils.validate import counted
from tests.engine.processes import ROOT, free_port
from tests.gloo import start

LAUNCH = 'mmdistill_dense.engine.launch'  # acts at its import, which the process of the tests may have made


def run_commands(_, folder, config):
    """Train, resume and test, one after the other, as a person would in a folder.

    Each has a name of its own: in one process, mmengine lets runs of the same name and second share a log file. The
    first one has the variables of torchrun.
    """
    os.chdir(folder)
    sys.modules.pop(LAUNCH, None)
    os.environ.update(RANK='0', LOCAL_RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port())
    train, test = (str(ROOT / 'tools' / name) for name in ('train.py', 'test.py'))
    again = ['experiment_name=again', 'train_cfg.max_iters=8', 'train_cfg.val_interval=8']
    tested = ['--checkpoint', 'run/iter_4.pth', '--tta', '--out', 'all.pkl']
    for line in (
        [train, config, '--work-dir', 'run', '--launcher', 'pytorch', '--cfg-options', 'experiment_name=run'],
        [train, config, '--work-dir', 'again', '--resume', 'run/iter_4.pth', '--cfg-options', *again],
        [test, config, '--work-dir', 'test', *tested, '--cfg-options', 'experiment_name=test'],
    ):
        sys.argv = line
        runpy.run_path(line[0], run_name='__main__')
        if dist.is_initialized():
            dist.destroy_process_group()
            os.environ.pop('RANK')


@pytest.fixture(scope='module')
def commands_run(tiny_config, tmp_path_factory):
    """The folder of :func:`run_commands`, in a process of its own."""
    folder = tmp_path_factory.mktemp('commands')
    start(run_commands, str(folder), str(tiny_config), processes=1)
    return folder


def test_a_launched_run_resumes(commands_run):
    (log,) = (commands_run / 'run').glob('*/*.log')
    assert 'SyncBN layers become BN' in log.read_text() and (commands_run / 'run' / 'iter_4.pth').is_file()
    (log,) = (commands_run / 'again').glob('*/*.log')
    assert 'iter: 4' in log.read_text()
    assert (commands_run / 'again' / 'iter_8.pth').is_file() and not (commands_run / 'again' / 'iter_4.pth').exists()
    (log,) = (commands_run / 'test').glob('*/*.log')
    assert 'mIoU' in log.read_text() and (commands_run / 'all.pkl').is_file()


def test_another_runner_may_be_named(monkeypatch, tmp_path, tiny_config, capsys):
    other = type('Other', (Runner,), dict(from_cfg=classmethod(lambda cls, cfg: f'other {cfg.x}')))
    monkeypatch.setitem(RUNNERS.module_dict, 'Other', other)
    assert commands.build_runner(Config(dict(runner_type='Other', x=3))) == 'other 3'
    assert main(['test', str(tiny_config)]) == 2
    assert 'the checkpoint is missing' in capsys.readouterr().err
    file, checkpoint = tmp_path / 'run.py', tmp_path / 'a.pth'
    file.write_text("default_scope = 'mmseg'\nmodel = dict(type='EncoderDecoder')\ntest_cfg = dict(type='TestLoop')\n")
    checkpoint.touch()
    assert main(['test', str(file), str(checkpoint)]) == 2
    assert 'does not set test_dataloader, test_evaluator, so nothing can be tested' in capsys.readouterr().err


def test_a_first_start_with_resume_keeps_load_from(tmp_path, monkeypatch, caplog):
    """Jobs that always pass ``--resume``."""
    runner = SimpleNamespace(logger=logging.getLogger('run'), work_dir=str(tmp_path / 'run'), train=lambda: None)

    def build(cfg):
        runner._resume, runner._load_from = cfg.get('resume', False), cfg.get('load_from')
        assert cfg.work_dir == 'runs/run', 'by the name of the file, not of its base'
        return runner

    monkeypatch.setattr(commands, 'build_runner', build)
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'base.py').write_text("work_dir = 'runs/{{ fileBasenameNoExtension }}'\n")
    (tmp_path / 'run.py').write_text("_base_ = 'base.py'\nload_from = 'start.pth'\n")
    with caplog.at_level('INFO'):
        main(['train', 'run.py', '--resume', '--cfg-options', 'load_from=other.pth'])
    assert (runner._resume, runner._load_from) == (False, 'other.pth')
    assert "no checkpoint to resume: a new run begins, with load_from='other.pth'" in caplog.text


@pytest.mark.parametrize(('launcher', 'starter'), [('pytorch', 'torchrun'), ('slurm', 'srun'), ('mpi', 'mpirun')])
def test_a_launcher_that_started_nothing_is_told(tiny_config, monkeypatch, capsys, launcher, starter):
    for name in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_LOCAL_RANK'):
        monkeypatch.delenv(name, raising=False)
    assert main(['train', str(tiny_config), '--launcher', launcher]) == 2
    printed = capsys.readouterr().err
    assert f'Start this command with {starter}, or give --processes N' in printed and printed.startswith('ERROR ')


@pytest.mark.parametrize(('launcher', 'variable', 'count'), [
    ('pytorch', 'RANK', 'WORLD_SIZE'),
    ('slurm', 'SLURM_PROCID', 'SLURM_STEP_NUM_TASKS'),
    ('mpi', 'OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_SIZE'),
])  # fmt: skip
def test_processes_of_a_launcher_that_nobody_named_are_refused(monkeypatch, launcher, variable, count):
    """Each would train a network of its own, in one folder."""
    parser = argparse.ArgumentParser()
    add_common(parser, '')
    monkeypatch.setenv(variable, '0')

    def started(number, *words):
        monkeypatch.setenv(count, number)
        args = parser.parse_args(['config.py', *words])
        start_processes(args, [])
        return args.launcher

    with pytest.raises(ValueError, match=f'started 2 processes: give --launcher {launcher},'):
        started('2')
    assert started('1') == started('2', '--launcher', 'none') == 'none'
    assert started('2', '--launcher', launcher) == launcher


SEG, DET = dict(default_scope='mmseg'), dict(default_scope='mmdet')


def changed(use, *options, **config):
    """A config after what an option of the command does to it."""
    cfg = Config(config)
    use(cfg, *options)
    return cfg


def test_what_options_do_to_a_config():
    for wrapper in (dict(type='OptimWrapper'), dict(constructor='LayerDecay', optimizer=dict(type='SGD'))):
        actual = changed(commands._use_amp, optim_wrapper=wrapper).optim_wrapper
        assert actual == dict(wrapper, type='AmpOptimWrapper', loss_scale='dynamic')
    base = dict(base_batch_size=16, enable=False)
    assert changed(commands._use_auto_scale_lr, auto_scale_lr=base).auto_scale_lr.enable
    hook = dict(type='DetVisualizationHook')
    actual = changed(commands._use_visualization, True, 'folder', 2, **DET, default_hooks=dict(visualization=hook))
    assert actual.default_hooks.visualization == dict(hook, draw=True, show=True, wait_time=2, test_out_dir='folder')
    miou, saving = dict(type='IoUMetric'), dict(type='IoUMetric', output_dir='folder')
    for arguments, expected in ((miou, saving), ([miou, dict(type='Mine')], [saving, dict(type='Mine')])):
        assert changed(commands._keep_predictions, 'folder', **SEG, test_evaluator=arguments).test_evaluator == expected
    actual = changed(commands._keep_predictions, 'x.pkl', **DET, test_evaluator=dict(type='CocoMetric'))
    assert [evaluator['type'] for evaluator in actual.test_evaluator] == ['CocoMetric', 'DumpDetResults']
    dataset = dict(pipeline=[dict(type='LoadImageFromFile'), dict(type='PackDetInputs')])
    model, tta = dict(type='RetinaNet'), dict(type='DetTTAModel')
    actual = changed(commands._use_tta, model=model, tta_model=tta, test_dataloader=dict(dataset=dataset))
    assert actual.model == dict(tta, module=model)
    assert [step['type'] for step in actual.test_dataloader.dataset.pipeline] == ['LoadImageFromFile', 'TestTimeAug']


@pytest.mark.parametrize(('use', 'options', 'config', 'words'), [
    (commands._use_amp, (), dict(optim_wrapper=dict(type='Mine')), "this config has 'Mine'"),
    (commands._use_amp, (), dict(optim_wrapper=dict(constructor='Parts')), 'Parts builds the optimizers itself: set'),
    (commands._use_amp, (), dict(optim_wrapper=None), '--amp .*optim_wrapper'),
    (commands._use_auto_scale_lr, (), {}, 'base_batch_size'),
    (commands._use_auto_scale_lr, (), dict(auto_scale_lr=None), '--auto-scale-lr .*auto_scale_lr'),
    (commands._use_visualization, (False, 'folder', 2), dict(default_hooks={}), 'SegVisualizationHook'),
    (commands._use_visualization, (True, None, 1.0), dict(default_hooks=None), '--show .*default_hooks'),
    (commands._keep_predictions, ('folder',), dict(DET, test_evaluator=dict(type='CocoMetric')), r'\.pkl'),
    (commands._use_tta, (), dict(SEG, tta_model=dict(type='SegTTAModel')), 'tta_pipeline'),
    (commands._use_tta, (), dict(model=dict(type='RetinaNet')), 'tta_model'),
])  # fmt: skip
def test_what_options_need_is_said(use, options, config, words):
    with pytest.raises((KeyError, ValueError), match=words):
        changed(use, *options, **config)


# A known mistake of a run is the last thing on the screen, whatever started it


SCRIPT = str(Path(mmseg.__path__[0], '.mim/tools/train.py'))


def as_python_does(_, folder, *words):
    """Run a script in a folder. A file there gets its output, and what Python prints of its error."""
    os.chdir(folder)
    sys.modules.pop(LAUNCH, None)
    sys.argv = [*words]
    with Path('said.txt').open('w') as file, redirect_stdout(file), redirect_stderr(file):
        try:
            runpy.run_path(words[0], run_name='__main__')
        except BaseException:
            sys.excepthook(*sys.exc_info())


def test_the_library_s_script_ends_with_the_sentence(tiny_config, tmp_path):
    """As ``mim train mmseg`` calls it."""
    hooks = ('distill.type=mmdistill_dense.DistillHook', 'checkpoint.save_best=coco/bbox_mAP')
    words = ['--cfg-options', *(f'default_hooks.{hook}' for hook in hooks)]
    start(as_python_does, str(tmp_path), SCRIPT, str(tiny_config), *words, processes=1)
    text = (tmp_path / 'said.txt').read_text()
    last = text.rstrip().splitlines()[-1]
    assert last.startswith('ERROR    ') and 'gives no such score' in last and 'Traceback' in text


def raised(act):
    with pytest.raises(BaseException) as error:
        act()
    return error.value


def inside(line):
    """Run a line as if it stood in the package."""
    name = f'{mmdistill_dense.__path__[0]}/made_up.py'
    linecache.cache[name] = (len(line), None, [line], name)
    exec(compile(line, name, 'exec'))


class Broken(Dataset):
    """A data set whose pictures end in an error of this package."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        wrong()


def test_what_a_reading_process_says_is_known_as_well():
    pictures = iter(DataLoader(Broken(), num_workers=1))
    error = raised(lambda: next(pictures))
    pictures._shutdown_workers()  # within a cycle of garbage, torch waits 5 s for the worker
    assert 'DataLoader worker process' in str(error)
    assert known_mistake(error) == "key has no option 'wrong'; known: right."


def wrong():
    check_known('key', {'wrong': 1}, ['right'])


def behind(cause):
    """Another error, raised from that of a wrong key or hiding it."""
    try:
        wrong()
    except TypeError as error:
        raise RuntimeError('class `X` in mmseg/x.py: …') from (error if cause else None)


def test_errors_of_this_package_are_known():
    for act, is_known in (
        (wrong, "key has no option 'wrong'"),
        (lambda: behind(True), "key has no option 'wrong'"),
        (lambda: behind(False), ''),
        (lambda: counted(object()), ''),  # int() raises inside a function of the package
        (lambda: inside('raise ValueError("user")'), 'user'),
        (lambda: torch.ones(3).topk(4), 'Train on larger pictures'),
        (lambda: inside('raise ValueError(None.name)'), ''),  # a bug of the message itself
    ):
        actual = known_mistake(raised(act))
        assert bool(actual) == bool(is_known) and is_known in actual
    assert not known_mistake(ValueError('never raised'))
