"""``train`` and ``test``: real runs of a tiny model, and what their options do to a config."""

import logging
import os
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch.distributed as dist
from mmengine.config import Config, ConfigDict
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.commands import training as commands
from tests.engine.processes import ROOT, free_port
from tests.gloo import start


def run_commands(_: int, folder: str, config: str) -> None:
    """Train, resume and test, one after the other, as a person would in a folder.

    Each has a name of its own: in one process, mmengine lets runs of the same name and second share a log file. The
    first one has the variables of torchrun.
    """
    os.chdir(folder)
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
def commands_run(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of :func:`run_commands`, in a process of its own."""
    folder = tmp_path_factory.mktemp('commands')
    start(run_commands, str(folder), str(tiny_config), processes=1)
    return folder


@pytest.mark.soak
def test_a_launched_run_trains_with_gloo(commands_run: Path) -> None:
    (log,) = (commands_run / 'run').glob('*/*.log')
    assert 'SyncBN layers become BN' in log.read_text() and (commands_run / 'run' / 'iter_4.pth').is_file()


def test_resume_continues_and_test_keeps_and_augments(commands_run: Path) -> None:
    (log,) = (commands_run / 'again').glob('*/*.log')
    assert 'iter: 4' in log.read_text()
    assert (commands_run / 'again' / 'iter_8.pth').is_file() and not (commands_run / 'again' / 'iter_4.pth').exists()
    (log,) = (commands_run / 'test').glob('*/*.log')
    assert 'mIoU' in log.read_text() and (commands_run / 'all.pkl').is_file()


def test_a_missing_checkpoint_and_a_config_without_a_test_are_said(tiny_config: Path, tmp_path, capsys) -> None:
    assert main(['test', str(tiny_config)]) == 2
    assert 'the checkpoint is missing' in capsys.readouterr().err
    file, checkpoint = tmp_path / 'run.py', tmp_path / 'a.pth'
    file.write_text("default_scope = 'mmseg'\nmodel = dict(type='EncoderDecoder')\ntest_cfg = dict(type='TestLoop')\n")
    checkpoint.touch()
    assert main(['test', str(file), str(checkpoint)]) == 2
    assert 'does not set test_dataloader, test_evaluator, so nothing can be tested' in capsys.readouterr().err


def test_a_config_may_name_another_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(Runner):
        @classmethod
        def from_cfg(cls, cfg: Config) -> str:
            return f'other {cfg.x}'

    monkeypatch.setitem(RUNNERS.module_dict, 'Other', Other)
    assert commands.build_runner(Config(dict(runner_type='Other', x=3))) == 'other 3'


@pytest.mark.parametrize('words', [[], ['--cfg-options', 'load_from=other.pth']])
def test_a_first_start_with_resume_keeps_load_from(tmp_path, monkeypatch, caplog, words) -> None:
    """Jobs that always pass ``--resume``; a named file is resumed from, whatever the folder holds."""
    runner = SimpleNamespace(logger=logging.getLogger('run'), work_dir=str(tmp_path / 'run'), train=lambda: None)

    def build(cfg: Config) -> SimpleNamespace:
        runner._resume, runner._load_from = cfg.get('resume', False), cfg.get('load_from')
        return runner

    monkeypatch.setattr(commands, 'build_runner', build)
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'run.py').write_text("load_from = 'start.pth'\n")
    start = 'other.pth' if words else 'start.pth'
    with caplog.at_level('INFO'):
        main(['train', 'run.py', '--resume', *words])
    assert (runner._resume, runner._load_from) == (False, start)
    assert f'no checkpoint to resume: a new run begins, with load_from={start!r}' in caplog.text
    (tmp_path / 'named.pth').touch()
    main(['train', 'run.py', '--resume', 'named.pth', *words])
    assert (runner._resume, runner._load_from) == (True, 'named.pth')
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'last_checkpoint').write_text('iter_4.pth')
    main(['train', 'run.py', '--resume', *words])
    assert (runner._resume, runner._load_from) == (True, None)


@pytest.mark.parametrize(('launcher', 'starter'), [('pytorch', 'torchrun'), ('slurm', 'srun'), ('mpi', 'mpirun')])
def test_a_launcher_that_started_nothing_is_told(tiny_config: Path, monkeypatch, capsys, launcher, starter) -> None:
    for name in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_LOCAL_RANK'):
        monkeypatch.delenv(name, raising=False)
    assert main(['train', str(tiny_config), '--launcher', launcher]) == 2
    said = capsys.readouterr().err
    assert f'Start this command with {starter}, or give --processes N' in said and said.startswith('ERROR ')


def test_amp_refuses_another_wrapper() -> None:
    cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper')))
    commands._use_amp(cfg)
    assert cfg.optim_wrapper == dict(type='AmpOptimWrapper', loss_scale='dynamic')
    with pytest.raises(ValueError, match="this config has 'Mine'"):
        commands._use_amp(Config(dict(optim_wrapper=dict(type='Mine'))))
    with pytest.raises(ValueError, match='Parts builds the optimizers itself: set the type there'):
        commands._use_amp(Config(dict(optim_wrapper=dict(constructor='Parts'))))
    cfg = Config(dict(optim_wrapper=dict(constructor='LayerDecay', optimizer=dict(type='SGD'))))  # takes the usual type
    commands._use_amp(cfg)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'


def test_auto_scale_lr_needs_a_base_and_pictures_the_hook() -> None:
    cfg = Config(dict(auto_scale_lr=dict(base_batch_size=16, enable=False)))
    commands._use_auto_scale_lr(cfg)
    assert cfg.auto_scale_lr.enable
    with pytest.raises(KeyError, match='base_batch_size'):
        commands._use_auto_scale_lr(Config({}))
    with pytest.raises(KeyError, match='SegVisualizationHook'):
        commands._use_visualization(Config(dict(default_hooks=dict())), False, 'folder', 2)
    cfg = Config(dict(default_scope='mmdet', default_hooks=dict(visualization=dict(type='DetVisualizationHook'))))
    commands._use_visualization(cfg, True, 'folder', 2)
    drawn = dict(draw=True, show=True, wait_time=2, test_out_dir='folder')
    assert cfg.default_hooks.visualization == dict(type='DetVisualizationHook', **drawn)


def test_out_follows_the_task() -> None:
    seg = Config(dict(default_scope='mmseg', test_evaluator=dict(type='IoUMetric')))
    commands._keep_predictions(seg, 'folder')
    assert seg.test_evaluator.output_dir == 'folder'
    several = Config(dict(default_scope='mmseg', test_evaluator=[dict(type='IoUMetric'), dict(type='Mine')]))
    commands._keep_predictions(several, 'folder')
    assert several.test_evaluator == [dict(type='IoUMetric', output_dir='folder'), dict(type='Mine')]
    det = Config(dict(default_scope='mmdet', test_evaluator=dict(type='CocoMetric')))
    commands._keep_predictions(det, 'x.pkl')
    assert [one['type'] for one in det.test_evaluator] == ['CocoMetric', 'DumpDetResults']
    with pytest.raises(ValueError, match=r'\.pkl'):
        commands._keep_predictions(det, 'folder')


def test_tta_of_a_detector_comes_from_its_test_pipeline() -> None:
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackDetInputs')]
    cfg = Config(
        dict(
            model=dict(type='RetinaNet'),
            tta_model=dict(type='DetTTAModel'),
            test_dataloader=dict(dataset=dict(pipeline=pipeline)),
        )
    )
    commands._use_tta(cfg)
    assert cfg.model == dict(type='DetTTAModel', module=dict(type='RetinaNet'))
    assert [step['type'] for step in cfg.test_dataloader.dataset.pipeline] == ['LoadImageFromFile', 'TestTimeAug']
    with pytest.raises(KeyError, match='tta_pipeline'):
        commands._use_tta(Config(dict(default_scope='mmseg', tta_model=dict(type='SegTTAModel'))))
    with pytest.raises(KeyError, match='tta_model'):
        commands._use_tta(Config(ConfigDict(model=dict(type='RetinaNet'))))
