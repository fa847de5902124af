"""Two gloo processes pre-train one student with one queue, and resume to the same bits."""

import os
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests import gloo, toys
from tests.pretrain import runs

pytestmark = pytest.mark.soak  # what the processes share is tested in tests/distillers/test_two_processes.py


def process(rank, folder, teacher, pictures):
    """A run of two epochs, and its second epoch again from the first one's checkpoint."""
    torch.set_num_threads(1)
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE='2')
    folder = Path(folder)
    runs.teacher_file, runs.pictures = lambda: teacher, lambda: pictures
    rendezvous = f'file://{folder}/rendezvous'
    dist.init_process_group('gloo', init_method=rendezvous, rank=rank, world_size=2, timeout=timedelta(seconds=120))
    wrapper = dict(type='mmdistill_dense.DistillDDP', broadcast_buffers=False)
    options = dict(launcher='pytorch', model_wrapper_cfg=wrapper)
    for name, changes in (('a', {}), ('b', dict(resume=True, load_from=str(folder / 'a' / 'epoch_1.pth')))):
        model = toys.train(None, runs.config(folder / name, **options, **changes)).model.module
        found = {f'queue.{n}': b for n, b in model.distillers.named_buffers() if 'queue' in n}
        found |= {f'student.{n}': p.detach() for n, p in model.named_parameters()}
        torch.save(found, folder / f'{name}{rank}.pth')
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
