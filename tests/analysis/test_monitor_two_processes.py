"""Two gloo processes under the hook: what it logs, what it leaves alone, who draws. All of it happens in one start."""

import json
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.config import Config
from torch import nn

from mmdistill_dense.apps.inspect import MonitorHook, gradients
from mmdistill_dense.engine import DistillDDP
from mmdistill_dense.utils import distributed
from tests import gloo, toys

pytestmark = pytest.mark.soak  # half a minute of two cores

BATCH = 4
STILL = dict(  # whose terms are means over the pictures of a process
    kd=dict(type='LogitKD', temperature=2.0),
    mimic=dict(type='MaskedMimic', ratio=1.1),
    at=dict(type='AT', student_tap='backbone[2]'),
)
TALKING = dict(  # which send rows to each other, forward and backward, or draw masks of their own
    mimic=dict(type='MaskedMimic'),
    pcd=dict(type='PCD', queue_size=8, num_pixels=16),
    cirkd=dict(type='CIRKD', pixel_memory=20, region_memory=8, pixel_contrast=16, region_contrast=16),
)
WATCHING = dict(type='mmdistill_dense.MonitorHook', interval=2, gradient_interval=2, picture_interval=2, pictures=1)


def measured(part, wrap=lambda model: model):
    """What the hook finds in one step on some of the pictures; the norms use their running statistics."""
    model = toys.distilled(student=toys.seg_net('fcn'), teacher=toys.seg_teacher('fcn'), distillers=STILL)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    wrapped, watching = wrap(model), MonitorHook(interval=1, gradient_interval=1)
    runner = SimpleNamespace(cfg=Config({}), logger=mock.Mock(), iter=0, model=wrapped, optim_wrapper=SimpleNamespace())
    watching.before_train(runner)
    watching.before_train_iter(runner, 0)
    batch = {name: values[part] for name, values in toys.seg_batch(BATCH).items()}
    losses = wrapped(**model.data_preprocessor(batch, True), mode='loss')
    toys.total(losses).backward()
    return watching._found


def run(folder, **changes):
    model = toys.model_config(toys.seg_net('fcn', dropout=0.3), toys.seg_teacher('fcn'), TALKING)
    wrapper = dict(type='mmdistill_dense.DistillDDP', broadcast_buffers=False)
    runner = toys.train(
        None, toys.run_config(folder, model, iters=4, launcher='pytorch', model_wrapper_cfg=wrapper, **changes)
    )
    assert toys.hooks_left(runner.model.module) == 0
    runner.visualizer.close()


def process(rank, folder, teacher):
    """What each of the two processes does."""
    folder = gloo.join(rank, folder, teacher)
    half = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    found = measured(half, lambda model: DistillDDP(model, broadcast_buffers=False))
    (folder / f'rank{rank}.json').write_text(json.dumps(found))
    run(folder / 'plain')
    run(folder / 'watched', custom_hooks=[WATCHING])
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """The folder in which two processes left their results."""
    path = tmp_path_factory.mktemp('two')
    mp.spawn(process, args=(str(path), toys.teacher_file('fcn')), nprocs=2)
    return path


@pytest.fixture(scope='module')
def ranks(folder):
    return [json.loads((folder / f'rank{rank}.json').read_text()) for rank in range(2)]


def test_numbers_are_means_of_what_the_processes_find(ranks, monkeypatch):
    """Losses and gradients are a process's own: here one process measures both halves, one after the other."""
    rows = []

    def mean_over(function):
        for module in (distributed, gradients):
            monkeypatch.setattr(module, 'mean_over_ranks', function)

    mean_over(lambda x: rows.append(x.clone()) or x)
    first = measured(slice(0, 2))
    earlier = iter(rows)
    mean_over(lambda x: (next(earlier) + x) / 2)
    expected = measured(slice(2, 4))
    assert ranks[0] == ranks[1]
    assert {'share.task', 'gradient_share.task', 'cosine.kd.decode_head.conv_seg'} <= set(expected)
    assert ranks[0] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert first != pytest.approx(expected, rel=1e-2)


def test_agreement_is_that_of_one_process_with_all_pictures(ranks):
    whole = measured(slice(None))
    found = {name: value for name, value in ranks[0].items() if name.startswith(('cosine.', 'energy.'))}
    assert len(found) == 3
    for name, value in found.items():
        assert value == pytest.approx(whole[name], rel=1e-4, abs=1e-6), name


def test_training_does_not_notice_it(folder):
    plain, watched = (torch.load(folder / name / 'iter_4.pth', weights_only=False) for name in ('plain', 'watched'))
    for part in ('state_dict', 'distillers'):
        assert plain[part] and not toys.differing(plain[part], watched[part]), part


def test_one_process_writes_and_draws(folder):
    (path,) = folder.glob('watched/*/vis_data/scalars.json')
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    watched = [row for row in rows if 'monitor/share.task' in row]
    assert [row['step'] for row in watched] == [1, 3]
    for row in watched:
        assert sum(value for name, value in row.items() if name.startswith('monitor/share.')) == pytest.approx(1)
        assert sum(value for name, value in row.items() if '/gradient_share.' in name) == pytest.approx(1)
    pictures = sorted(path.parent.glob('vis_image/*.png'))
    assert [picture.name for picture in pictures] == ['monitor_picture_0_2.png', 'monitor_picture_0_4.png']
    assert all(picture.stat().st_size > 1000 for picture in pictures)
    assert not list(folder.glob('plain/*/vis_data/vis_image/*'))
