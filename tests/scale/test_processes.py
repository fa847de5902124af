"""One, two and four gloo processes compute the same. All that needs them happens in one start."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import mmdet.models  # noqa: F401  (everything that a step needs is there before the fork)
import mmseg.models  # noqa: F401
import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.dist import get_rank
from torch import Tensor

from mmdistill_dense.distillers.maskd.token_distiller import TokenDistiller
from mmdistill_dense.engine import DistillDDP
from tests import gloo, toys
from tests.distillers.maskd.tokens import LOGITS, NECK, random_tokens

BATCH = 8
GN = dict(type='GN', num_groups=4, requires_grad=True)
POOLED = dict(queue_size=12, queue_init='random', num_pixels=None)
CENTRE = dict(type='centre')  # a random mask differs between processes, as it should
SEG = dict(
    kd=dict(type='LogitKD', temperature=2.0),
    afdcd=dict(type='AfDCD', mask=CENTRE, pool_size=0, student_tap='backbone[2]'),
    maskd_maps=dict(NECK, student_tap='backbone[3]', student_mask_from=0),
    maskd_logits=LOGITS,
    pcd=dict(type='PCD', **POOLED),
    cirkd=dict(type='CIRKD', pixel_memory=30, region_memory=4),
    cwd=dict(type='CWD'),
    at=dict(type='AT'),
    dist=dict(type='DIST'),
    fitnet=dict(type='FitNet'),
    ifvd=dict(type='IFVD'),
    skd=dict(type='SKD'),
    pkd=dict(type='PKD', student_tap='backbone[3]'),
    mgd=dict(type='MGD', student_tap='backbone[3]', mask_ratio=0.0),
    match=dict(type='FeatureMatch'),
    cankd=dict(type='CanKD', student_tap='backbone[3]'),
    queue=dict(type='QueueKL', queue_size=12),
    simreg=dict(type='SimReg', head=dict(type='linear')),
)
DET = dict(
    kd=dict(type='LogitKD', student_tap='bbox_head.gfl_cls', activation='sigmoid'),
    afdcd=dict(type='AfDCD', mask=CENTRE, pool_size=0, student_tap='neck[0]'),
    maskd=dict(NECK, student_mask_from=0),
    freekd=dict(NECK, type='FreeKD'),
    pcd=dict(type='PCD', student_tap='neck[2]', **POOLED),
    fgd=dict(type='FGD'),
    defeat=dict(type='DeFeat'),
    ld=dict(type='LD', reduction='mean'),  # the released sum grows with the pictures of a process
    pkd=dict(type='PKD'),
    cwd=dict(type='CWD', student_tap='neck'),
    mgd=dict(type='MGD', mask_ratio=0.0),
    match=dict(type='FeatureMatch', student_tap='neck'),
    queue=dict(type='QueueKL', queue_size=12, queue_init='zeros'),
    seed=dict(type='QueueKL', queue_size=12, own_key=True, queue_init='random'),
)
METHODS = {'seg': SEG, 'det': DET}
OWN_BATCH = ('pkd', 'dist')
"""Methods that standardise by the statistics of a process's own pictures, as released."""
SUMS = ('fgd', 'mgd')
"""Methods whose released losses are sums over a picture, which are large: they get a small weight here."""


def pair(task: str) -> Any:
    """A pair with all methods at once; batch statistics of a part of a batch are others, so norms use running ones."""
    methods = {name: {'loss_weight': 1e-3, **one} if name in SUMS else one for name, one in METHODS[task].items()}
    kind, scope = ('fcn', 'mmseg') if task == 'seg' else ('gfl', 'mmdet')
    net, taught = (toys.seg_net, toys.seg_teacher) if task == 'seg' else (toys.det_net, toys.det_teacher)
    model = toys.distilled(scope, student=net(kind), teacher=taught(kind), distillers=methods)
    if task == 'det':  # scores so low as at the start would be divided by 1, whatever the number of processes
        torch.nn.init.zeros_(model.bbox_head.gfl_cls.bias)
    for distiller in model.distillers.values():
        if isinstance(distiller, TokenDistiller):
            distiller.load_tokens(random_tokens(distiller))
    toys.still_norms(model)
    return model


def one_step(task: str, rank: int, size: int) -> dict[str, dict[str, Tensor]]:
    """Of this process's share of one global batch: losses, gradients of a training step, and that of each method alone
    at the student's first layer."""
    student = pair(task)
    model = DistillDDP(student, broadcast_buffers=False) if size > 1 else student
    raw = toys.seg_batch(BATCH) if task == 'seg' else toys.det_batch(BATCH)
    share = {name: values[rank * BATCH // size : (rank + 1) * BATCH // size] for name, values in raw.items()}
    student.distillation.state.rank = rank
    losses = model(**student.data_preprocessor(share, True), mode='loss')
    first = next(student.backbone.parameters())
    alone = {name: toys.total({k: v for k, v in losses.items() if f'.{name}.' in k}) for name in METHODS[task]}
    stem = {name: torch.autograd.grad(total, first, retain_graph=True)[0] for name, total in alone.items()}
    student.zero_grad()
    toys.total({name: _without(name, value) for name, value in losses.items()}).backward()
    values = {name: value.detach() for name, value in losses.items() if name.startswith('distill.') and 'loss' in name}
    queues = {name: value.clone() for name, value in student.distillers.named_buffers() if 'queue' in name}
    gradients = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    return dict(losses=values, gradients=gradients, stem=stem, queues=queues)


def _without(name: str, value: Any) -> Any:
    """Nothing of the methods whose gradients depend on a process's own pictures, which stay connected for DDP."""
    return 0 * value if any(f'.{method}.' in name for method in OWN_BATCH) else value


def run(folder: Path, processes: int, each: int, steps: int, **changes: Any) -> Config:
    """A run whose own losses and norms allow the same student on any number of processes: GN, every pixel labelled,
    no picture changed at random; ``each`` pictures of a process in a step."""
    heads = {name: dict(norm_cfg=GN) for name in ('decode_head', 'auxiliary_head')}
    student = toys.seg_net('fcn', backbone=dict(norm_cfg=GN), **heads)
    methods = {name: SEG[name] for name in ('kd', 'afdcd', 'cwd', 'fitnet')}
    methods['maskd'] = dict(LOGITS, tokens=str(_token_file(folder)))
    data = dict(batch_size=each, dataset=dict(num_images=2 * BATCH), sampler=dict(seed=3))
    clip = dict(clip_grad=dict(max_norm=5.0))
    model = toys.model_config(student, toys.seg_teacher('fcn'), methods)
    config = toys.run_config(folder, model, iters=steps, train_dataloader=data, optim_wrapper=clip)
    del config.train_dataloader.dataset.pipeline[1:-1]
    config.merge_from_dict(changes)
    return on_processes(config, processes)


def epoch(folder: Path, processes: int, images: int, **sampler: Any) -> Config:
    """An epoch of two pictures a step, the last of which may be one, with everything that processes exchange."""
    methods = {name: SEG[name] for name in ('kd', 'pcd', 'cirkd')}
    methods['afdcd'] = dict(SEG['afdcd'], mask=dict(type='random'))
    model = toys.model_config(toys.seg_net('fcn', dropout=0.1), toys.seg_teacher('fcn'), methods)
    data = dict(dataset=dict(num_images=images), sampler=sampler)
    return on_processes(toys.run_config(folder, model, epochs=1, train_dataloader=data), processes)


def on_processes(config: Config, processes: int) -> Config:
    """The same for a launcher's processes, where there are several."""
    if processes > 1:
        config.launcher = 'pytorch'
        config.model_wrapper_cfg = dict(type='mmdistill_dense.DistillDDP', broadcast_buffers=False)
    return config


def _token_file(folder: Path) -> Path:
    """Tokens as they are released: learned ones would depend on the number of pictures in a step."""
    path = folder.with_name(f'{folder.name}_{get_rank()}.pth')
    torch.save({'mask_token': torch.randn(3, toys.NUM_CLASSES, generator=torch.Generator().manual_seed(1))}, path)
    return path


SIZES = (4, 2, 1)
STEPS = 3
UNEVEN = 10  # pictures: two and one for each of four processes
PATIENCE = timedelta(seconds=240)


def work(rank: int, folder: str, files: dict[str, str]) -> None:
    """Everything that this process has a part in, into ``<size>_<rank>.pth``."""
    torch.set_num_threads(1)
    toys.teacher_file = lambda kind, *_, **__: files[kind]
    for size in SIZES:
        if rank < size:
            _in_group(rank, size, Path(folder))


def _in_group(rank: int, size: int, folder: Path) -> None:
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(size))
    rendezvous = f'file://{folder}/rendezvous{size}'
    dist.init_process_group('gloo', init_method=rendezvous, rank=rank, world_size=size, timeout=PATIENCE)
    actual: dict[str, Any] = {task: one_step(task, rank, size) for task in METHODS}
    each = BATCH // size
    actual['run'] = _trained(run(folder / f'run{size}', size, each, STEPS))
    if size < 4:
        parts = each // 2
        options = {'optim_wrapper.accumulative_counts': parts}
        actual['accumulated'] = _trained(run(folder / f'parts{size}', size, 2, parts * STEPS, **options))
    if size == 4:
        actual['uneven'] = _trained(epoch(folder / 'uneven', size, UNEVEN))
        try:
            toys.train(None, epoch(folder / 'refused', size, UNEVEN, round_up=False))
        except ValueError as error:
            actual['refused'] = str(error)
    torch.save(actual, folder / f'{size}_{rank}.pth')
    dist.destroy_process_group()


def _trained(config: Any) -> dict[str, Any]:
    """Weights and queues at the end, and the number of iterations."""
    runner = toys.train(None, config)
    model = getattr(runner.model, 'module', runner.model)
    weights = {**model.state_dict(), **{f'distillers.{name}': v for name, v in model.distillers.state_dict().items()}}
    return dict(weights={name: value.clone() for name, value in weights.items()}, iterations=runner.iter)


pytestmark = pytest.mark.soak

CASES = [(task, method) for task, methods in METHODS.items() for method in methods]


@pytest.fixture(scope='module')
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """What the processes found, by their number and rank."""
    folder = tmp_path_factory.mktemp('processes')
    files = {'fcn': toys.teacher_file('fcn'), 'gfl': toys.teacher_file('gfl')}
    gloo.start(work, str(folder), files, processes=max(SIZES))
    return {size: [torch.load(folder / f'{size}_{rank}.pth') for rank in range(size)] for size in SIZES}


@pytest.mark.parametrize('size', [2, 4])
@pytest.mark.parametrize(('task', 'method'), CASES)
def test_gradients_of_processes_average_to_one_process(ranks, task, method, size):
    """The gradient at the student's first layer, of each method alone; the documents name the exceptions."""
    (alone,), own_batch = ranks[1], method in OWN_BATCH
    whole = {name: v for name, v in alone[task]['losses'].items() if name.startswith(f'distill.{method}.')}
    assert whole and all(value != 0 for value in whole.values())
    for name, value in whole.items():
        mean = torch.stack([rank[task]['losses'][name] for rank in ranks[size]]).mean()
        near = dict(rtol=1e-5) if own_batch else dict(rtol=1e-4, atol=1e-7)
        assert torch.isclose(mean, value, **near) != own_batch, name
    expected = alone[task]['stem'][method]
    mean = torch.stack([rank[task]['stem'][method] for rank in ranks[size]]).mean(0)
    error = (mean - expected).norm() / expected.norm()
    assert expected.any() and (error > 1e-3 if own_batch else error < 1e-4), float(error)


@pytest.mark.parametrize('size', [2, 4])
@pytest.mark.parametrize('task', list(METHODS))
def test_ddp_gives_every_process_the_gradients_of_one(ranks: Any, task: str, size: int) -> None:
    """Of task and distillation together, for every parameter, adapters included; queues are one and the same."""
    (alone,) = ranks[1]
    expected = alone[task]
    assert any(name.startswith('distillers.') for name in expected['gradients']) and expected['queues']
    for rank in ranks[size]:
        assert rank[task]['gradients'].keys() == expected['gradients'].keys()
        for name, gradient in expected['gradients'].items():
            error = (rank[task]['gradients'][name] - gradient).norm()
            assert error <= 1e-4 * gradient.norm() + 1e-6, name
        assert not toys.differing(rank[task]['queues'], ranks[size][0][task]['queues'])
        torch.testing.assert_close(rank[task]['queues'], expected['queues'])


@pytest.mark.parametrize(('size', 'run'), [(2, 'run'), (4, 'run'), (1, 'accumulated'), (2, 'accumulated')])
def test_runs_end_with_the_same_student(ranks: Any, size: int, run: str) -> None:
    """The ordinary runner, with GN, one clipping of the gradient and data in the same order; accumulated steps are
    one step."""
    (alone,) = ranks[1]
    expected = alone['run']['weights']
    for rank in (rank[run] for rank in ranks[size]):
        assert rank['iterations'] == STEPS if run == 'run' else rank['iterations'] > STEPS
        assert run != 'run' or not toys.differing(rank['weights'], ranks[size][0][run]['weights']), 'one student'
        assert rank['weights'].keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(rank['weights'][name], value, rtol=1e-4, atol=2e-6, msg=name)


def test_uneven_last_batches_keep_one_student(ranks: Any) -> None:
    """Ten pictures on four processes, two of each in a step: each process sees three, the last step takes one.
    Processes with different numbers would wait for each other for ever."""
    first, *other_results = (rank['uneven'] for rank in ranks[4])
    assert first['iterations'] == 2 and any('queue' in name for name in first['weights'])
    running = ('running_mean', 'running_var')  # of each process's own pictures: BN, no SyncBN, on the CPU
    for other in other_results:
        assert [name for name in toys.differing(first['weights'], other['weights']) if not name.endswith(running)] == []
    for rank in ranks[4]:
        assert all(words in rank['refused'] for words in ('train_dataloader', '2, 2, 1, 1', 'round_up=True'))
