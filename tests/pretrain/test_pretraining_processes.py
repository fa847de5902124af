"""Two gloo processes pre-train one student with one queue, watched or not, and resume to the same bits."""

import os
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from mmdistill_dense.pretrain import DenseMonitor
from tests import gloo, toys
from tests.pretrain import runs
from tests.pretrain.test_monitor import HOOK, curve

pytestmark = pytest.mark.soak  # what the processes share is tested in tests/distillers/test_two_processes.py


def process(rank, folder, teacher, pictures):
    """A run of two epochs, its second epoch again from the first one's checkpoint, and its first with the monitor."""
    torch.set_num_threads(1)
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE='2')
    folder = Path(folder)
    runs.teacher_file, runs.pictures = lambda: teacher, lambda: pictures
    rendezvous = f'file://{folder}/rendezvous'
    dist.init_process_group('gloo', init_method=rendezvous, rank=rank, world_size=2, timeout=timedelta(seconds=120))
    wrapper = dict(type='mmdistill_dense.DistillDDP', broadcast_buffers=False)
    options = dict(launcher='pytorch', model_wrapper_cfg=wrapper)
    seen, write = [], DenseMonitor._write
    DenseMonitor._write = lambda hook, runner, values, step: (
        seen.append(dict(values)),
        write(hook, runner, values, step),
    )
    for name, changes in (
        ('a', {}),
        ('b', dict(resume=True, load_from=str(folder / 'a' / 'epoch_1.pth'))),
        ('watched', dict(epochs=1, custom_hooks=[dict(HOOK, by_epoch=False, probe_interval=2)])),
    ):
        model = toys.train(None, runs.config(folder / name, **options, **changes)).model.module
        found = {f'queue.{n}': b for n, b in model.distillers.named_buffers() if 'queue' in n}
        found |= {f'student.{n}': p.detach() for n, p in model.named_parameters()}
        torch.save(found, folder / f'{name}{rank}.pth')
    torch.save(seen, folder / f'seen{rank}.pth')
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Where the runs wrote."""
    folder = tmp_path_factory.mktemp('two')
    gloo.start(process, str(folder), runs.teacher_file(), runs.pictures())
    return folder


@pytest.fixture(scope='module')
def results(folder):
    """The tensors at the end, by run and rank."""
    return {f'{run}{rank}': torch.load(folder / f'{run}{rank}.pth') for run in 'ab' for rank in range(2)}


def test_both_hold_one_queue_and_one_student(results):
    assert {'queue.pcd.queue.rows', 'queue.pcd.queue.ptr', 'student.backbone.conv1.weight'} <= set(results['a0'])
    assert not toys.differing(results['a0'], results['a1'])
    assert int(results['a0']['queue.pcd.queue.ptr']) == 16, 'the keys of two epochs of eight pictures'


def test_a_distributed_run_resumes_to_the_same_bits(results):
    assert not toys.differing(results['b0'], results['a0'])
    assert not toys.differing(results['b1'], results['a0'])


def test_watched_processes_train_on_as_unwatched_ones_and_write_their_mean(folder):
    contents = [runs.content(folder / name / 'epoch_1.pth') for name in ('a', 'watched')]
    assert not toys.differing(*contents)
    both = [torch.load(folder / f'seen{rank}.pth') for rank in range(2)]
    first, second = ([values for values in seen if 'pcd.positive' in values] for seen in both)
    assert first == second and len(first) > 1
    probes = [[values for values in seen if 'knn.miou' in values] for seen in both]
    assert len(probes[0]) == 2 and not probes[1], 'the first process probes'
    assert len(curve(folder / 'watched', 'monitor/pcd.positive')) == len(first)
