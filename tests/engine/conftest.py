"""A run small enough for many processes: a ResNet-18 of width 8 with SyncBN on generated pictures, no distiller."""

import sys

import pytest
from mmengine.config import Config

from tests import toys
from tests.engine.processes import ROOT, environment, run

LOAD = dict(type='mmdistill_dense.LoadShapes')
FLIPS = [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)]


@pytest.fixture(scope='session')
def tiny_config(tmp_path_factory):
    norm = dict(type='SyncBN', requires_grad=True)
    parts = dict(backbone=dict(depth=18), decode_head={}, auxiliary_head={})  # other processes do not know that of toys
    student = toys.seg_net('fcn', **{part: dict(norm_cfg=norm, **more) for part, more in parts.items()})
    options = toys.run_config('', student, train_cfg=dict(val_interval=4), log_level='INFO')._cfg_dict.to_dict()
    options.update({f'test_{part}': options[f'val_{part}'] for part in ('dataloader', 'evaluator')}, norm=norm)
    del options['work_dir'], options['default_hooks']['distill']
    options['default_hooks']['visualization'] = dict(type='SegVisualizationHook')
    tta = [LOAD, dict(type='TestTimeAug', transforms=[FLIPS, [dict(type='PackSegInputs')]])]
    config = Config.fromfile(ROOT / 'configs' / '_base_' / 'runtime_seg.py')
    config.merge_from_dict(dict(options, test_cfg=dict(type='TestLoop'), tta_pipeline=tta))
    path = tmp_path_factory.mktemp('tiny') / 'tiny.py'
    config.dump(path)
    return path


@pytest.fixture(scope='session')
def two_processes(tiny_config, tmp_path_factory):
    """The work folder and the output of a run of two gloo processes, started from a folder that is not the checkout."""
    folder = tmp_path_factory.mktemp('dist')
    command = [sys.executable, '-m', 'mmdistill_dense', 'train', tiny_config, '--processes', 2]
    log = run(command, folder, environment())
    return folder / 'work_dirs' / 'tiny', log
