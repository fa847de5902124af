"""Runs of every kind, and what their steps saw: each is trained whole, and again from a file of its middle."""

import functools
import random
import zlib
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import FlexibleRunner, Runner
from torch.utils.data import DataLoader, IterableDataset

from mmdistill_dense.datasets import ShapesSegDataset
from mmdistill_dense.registry import DATASETS, HOOKS, TRANSFORMS
from mmdistill_dense.unlabelled.step import unlabelled_of
from tests import toys
from tests.query_nets import query_model, query_net

DISTILLED = dict(
    kd=dict(type='LogitKD', schedule=dict(warmup=4)),
    mimic=dict(type='MaskedMimic', clip_max_norm=1.0),
    afdcd=dict(type='AfDCD', pool_size=0, student_tap='backbone[2]'),
)
KEEPING = dict(  # queues, pointers, running means, pixels and masks that are drawn; keys wrap around PCD's queue of 5
    pcd=dict(
        type='PCD', queue_size=5, enqueue='pixels', center=True, num_pixels=20, attention={},
        head=dict(type='mlp2', hidden=32),
    ),
    auto=dict(type='PCD', student_tap='backbone[3]', queue_size='auto', num_pixels=32),
    cirkd=dict(type='CIRKD', pixel_memory=40, region_memory=3),
    match=dict(type='FeatureMatch'),
    queue=dict(type='QueueKL', queue_size=3),
    seed=dict(type='QueueKL', queue_size=3, own_key=True),
    cankd=dict(type='CanKD', student_tap='backbone[3]'),
    simreg=dict(type='SimReg', head=dict(type='mlp4', hidden=8)),
    mgd=dict(type='MGD', student_tap='backbone[3]', mask_ratio=0.75, alpha=2e-4),
)  # fmt: skip
THREE = dict(
    first=dict(type='FitNet', student_tap='backbone[3]'),
    second=dict(type='MaskedMimic', clip_max_norm=1.0),
    kd=dict(type='LogitKD'),
)
ITERS = 6
PLAIN = toys.seg_net('fcn', dropout=0.1)


@HOOKS.register_module()
class Diary(Hook):
    """Writes down which labelled and which other pictures each step gets, with a number of their pixels."""

    seen: list = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        second = unlabelled_of(getattr(runner.model, 'module', runner.model))
        self.seen.append((runner.iter, _pictures(data_batch), _pictures(second.batch if second else None)))


def _pictures(batch):
    if batch is None:
        return None
    pairs = zip(batch['inputs'], batch['data_samples'], strict=True)
    return [(Path(sample.get('img_path', '')).name, zlib.crc32(picture.numpy().tobytes())) for picture, sample in pairs]


@HOOKS.register_module()
class Dice(Hook):
    """Draws as a model may that changes the size of its pictures: from Python's stream, and from numpy's."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        Diary.seen.append((random.random(), np.random.rand()))


@DATASETS.register_module()
class Endless(IterableDataset):
    """Pictures without indices, drawn from torch's stream."""

    def __init__(self, **options):
        self.data = ShapesSegDataset(**options)
        self.metainfo = self.data.metainfo

    def __len__(self):  # mmengine's logger asks
        return 100

    def __iter__(self):
        while True:
            yield self.data[int(torch.randint(len(self.data), ()))]


def config(work_dir, kind, workers, model, **changes):
    """A run with dropout, EMA, a falling rate, augmentation and a validation in between."""
    by_epoch = kind == 'epochs'
    return toys.run_config(
        work_dir,
        model,
        **(dict(epochs=2) if by_epoch else dict(iters=ITERS)),
        **toys.merged(
            dict(
                train_dataloader=dict(num_workers=workers),
                train_cfg=dict(val_interval=1 if by_epoch else 2),
                default_hooks=dict(checkpoint=dict(interval=1)),
                custom_hooks=[dict(type='EMAHook', momentum=0.5), dict(type='mmdistill_dense.Diary')],
                param_scheduler=[dict(type='PolyLR', power=0.9, by_epoch=False, begin=0, end=8)],
            ),
            changes,
        ),
    )


def pair(distillers=DISTILLED, pictures=None, **option):
    """An FCN pair; ``option`` is that of ``pictures`` without labels, a folder."""
    more = {} if pictures is None else dict(unlabelled=dict(data_root=pictures, **option))
    return toys.model_config(PLAIN, toys.seg_teacher('fcn'), distillers, **more)


TOGETHER = dict(  # four steps of two processes, which have been started
    launcher='pytorch',
    model_wrapper_cfg=dict(type='mmdistill_dense.DistillDDP', broadcast_buffers=False),
    train_cfg=dict(max_iters=4, val_interval=99),
)


def train(folder, network=None, kind='iters', workers=0, **changes):
    return toys.train(None, config(folder, kind, workers, network or pair(), **changes))


MORE = dict(ratio=1.5)
WITH_MORE = dict(kd=DISTILLED['kd'], mimic=dict(type='MaskedMimic'))


def with_more(folder, **changes):
    """With three pictures without labels beside two labelled ones."""
    return train(folder, pair(WITH_MORE, toys.picture_folder(), **MORE), **changes)


def noisy(folder, **changes):
    """A student alone, whose pictures have noise from generators of a step."""
    return train(folder, PLAIN, **NOISY, **changes)


def half(folder, **more):
    """With a loss scale; on the CPU, where mmengine does not let it run, autocast is bfloat16."""
    scaled = dict(type='AmpOptimWrapper', dtype='bfloat16', loss_scale=dict(init_scale=2.0**8))
    with half_on_the_cpu():
        with_more(folder, optim_wrapper=scaled, **more)


def half_on_the_cpu():
    scaler = partial(torch.amp.GradScaler, 'cpu')
    return mock.patch.multiple(amp_optimizer_wrapper, is_cuda_available=lambda: True, GradScaler=scaler)


def reordered(folder, paramwise=None, **more):
    """The optimizer's state goes by the position of a parameter, and a sum by the order of its terms.

    All gradients are clipped by their common norm.
    """
    methods = dict(reversed(THREE.items())) if more.get('resume') else THREE
    clipped = dict(optim_wrapper=dict(clip_grad=dict(max_norm=1.0), paramwise_cfg=paramwise))
    runner = train(folder, pair(methods, toys.picture_folder()), **clipped, **more)
    assert list(runner.model.distillers) == list(THREE)


def flexible(folder, **more):
    """It loads before it calls ``before_run``; the pictures without labels count too."""
    best = dict(checkpoint=dict(interval=1, save_best='mIoU'))  # written again, with one step too many
    options = dict(custom_hooks=[], env_cfg=dict(cudnn_benchmark=False))  # its EMA fails
    options |= dict(default_hooks=best, runner_type='FlexibleRunner')
    arguments = config(folder, 'iters', 0, pair(THREE, toys.picture_folder()), **options, **more)
    arguments.experiment_name = f'toy_{toys.fresh_dir().name}'
    FlexibleRunner.from_cfg(arguments).train()


def without_a_config(folder, **more):
    """Built from its arguments, as on mmengine's first page; a loader of torch draws from the global stream."""
    arguments = config(folder, 'iters', 0, pair(), **more)._cfg_dict.to_dict()
    names = ('model', 'work_dir', 'train_dataloader', 'train_cfg', 'optim_wrapper', 'default_hooks', 'custom_hooks')
    arguments = {name: arguments[name] for name in (*names, 'default_scope', 'randomness', 'log_level', *more)}
    init_default_scope('mmseg')
    data = DATASETS.build(arguments['train_dataloader']['dataset'])
    arguments['train_dataloader'] = DataLoader(data, batch_size=2, shuffle=True, collate_fn=pseudo_collate)
    Runner(**arguments, experiment_name=folder.name + toys.fresh_dir().name).train()


def drawn(folder, **more):
    """A student alone, in whose steps all streams are drawn from."""
    hooks = [dict(type='EMAHook'), dict(type='mmdistill_dense.Diary'), dict(type='mmdistill_dense.Dice')]
    train(folder, PLAIN, custom_hooks=hooks, **more)


def keeping(folder, **more):
    """Methods that keep something, on more pictures."""
    changes = dict(train_cfg=dict(max_iters=4), train_dataloader=dict(dataset=dict(num_images=12)))
    return train(folder, pair(KEEPING), **changes, **more)


def taught(student, teacher, **methods):
    return toys.model_config(student, teacher, methods), student


RESIZING = dict(type='BatchSyncRandomResize', random_size_range=(96, 96), interval=1)  # draws after each step
COUNTED = dict(
    rcnn=dict(dynamic_rcnn=dict(iou_topk=2, beta_topk=2, update_iter_interval=3, initial_iou=0.2))
)  # then thresholds move
SAMPLED = dict(  # at random, by a head of two stages
    kd=dict(type='LogitKD', student_tap='rpn_head.rpn_cls', activation='sigmoid'),
    mimic=dict(type='MaskedMimic', student_tap='neck[:2]'),
)
TWO = dict(bbox_head=dict(stacked_convs=2))
CROSS = dict(type='CrossKD', reuse_from=1, settings='auto')
ROI_MASKS = dict(
    type='RoIHeadKD', student_tap='roi_head.mask_head.conv_logits', output='mask_preds', form='sigmoid', temperature=2.0
)
DETECTORS = {
    'a detector': lambda: taught(
        toys.det_net('dynamic_rcnn', data_preprocessor=dict(batch_augments=[RESIZING]), train_cfg=COUNTED),
        toys.det_teacher('faster_rcnn'), **SAMPLED,
    ),
    'CrossKD': lambda: taught(
        toys.det_net('fcos', **TWO), toys.det_net('fcos', 16, channels=16, allow_random=True, **TWO), x=CROSS
    ),
    'DeFeat': lambda: taught(toys.det_net('fcos'), toys.det_teacher('gfl', 16, 16), x=dict(type='DeFeat')),
    'masks': lambda: taught(toys.det_net('mask_rcnn'), toys.det_teacher('cascade_mask_rcnn'), x=ROI_MASKS),
    'KDDETR': lambda: (query_model('dino'), query_net('dino')),
}  # fmt: skip


def detector(folder, name, **more):
    """The student in its files is a plain one."""
    model, student = DETECTORS[name]()
    changes = dict(masks=name == 'masks', custom_hooks=[dict(type='mmdistill_dense.Diary')])
    toys.train(None, toys.det_run_config(folder, model, iters=4, **changes, **more))
    saved = torch.load(folder / 'iter_4.pth', weights_only=False)
    assert saved['state_dict'].keys() == toys.build_plain(student).state_dict().keys()
    assert name != 'DeFeat' or 'x.aligns.4.weight' in saved['distillers']


@TRANSFORMS.register_module()
class OwnNoise(BaseTransform):
    """Draws from generators of its own, as albumentations do."""

    def __init__(self):
        self.compose = SimpleNamespace(py_random=random.Random(), transforms=[dict(rng=np.random.default_rng())])

    def transform(self, results):
        (inner,) = self.compose.transforms
        results['img'] = (results['img'] * inner['rng'].random() + self.compose.py_random.random()).astype(np.uint8)
        return results


NOISE = [dict(type=f'mmdistill_dense.{name}') for name in ('LoadShapes', 'OwnNoise')] + [dict(type='PackSegInputs')]
NOISY = dict(train_dataloader=dict(dataset=dict(pipeline=NOISE)))
FIVE = dict(num_workers=2, sampler=dict(type='DefaultSampler'), dataset=dict(num_images=5))
EPOCHS, WORKERS, GATHERED = dict(kind='epochs'), dict(workers=2), dict(optim_wrapper=dict(accumulative_counts=2))
RUNS = {  # how a run is trained, where it begins again, where it ends
    'iters': (train, 3, 6),
    'epochs': (partial(train, **EPOCHS), 1, 2),
    'another order': (reordered, 3, 6),
    'methods that keep something': (keeping, 2, 4),
    'a runner without a config': (without_a_config, 3, 6),
    'more pictures': (with_more, 2, 6),
    **{name: (partial(detector, name=name), 2, 4) for name in DETECTORS},
    'iters, workers': (partial(train, **WORKERS), 3, 6),
    'epochs, workers': (partial(train, **EPOCHS, **WORKERS), 1, 2),
    'another order in groups': (
        partial(reordered, paramwise=dict(custom_keys=dict(first=dict(lr_mult=3.0)), bias_lr_mult=2.0)), 3, 6
    ),
    'a flexible runner': (flexible, 2, 6),
    # each start draws a seed, and mmengine builds the sampler before it reads that of the checkpoint
    'without a seed': (partial(drawn, randomness=dict(seed=None)), 3, 6),
    # in an iteration-based run it begins anew, and the workers began at another batch
    'a finite sampler behind its end': (partial(drawn, train_dataloader=FIVE), 4, 6),
    # without workers the training draws from their stream; a resumed run loads those before it again
    'no indices': (
        partial(drawn, train_dataloader=dict(sampler=None, dataset=dict(type='mmdistill_dense.Endless'))), 3, 6
    ),
    'generators of steps': (noisy, 3, 6),
    'generators of steps, workers': (partial(noisy, **WORKERS), 3, 6),
    'generators of steps, epochs': (partial(noisy, **EPOCHS), 1, 2),
    'generators of steps, epochs, workers': (partial(noisy, **EPOCHS, **WORKERS), 1, 2),
    'more pictures, workers': (partial(with_more, **WORKERS), 3, 6),
    'more pictures, epochs': (partial(with_more, **EPOCHS), 1, 2),
    'more pictures, epochs, workers': (partial(with_more, **EPOCHS, **WORKERS), 1, 2),
    'more pictures, gathered': (partial(with_more, **WORKERS, **GATHERED, train_cfg=dict(max_iters=5)), 2, 5),
    'half precision': (half, 2, 6),
    'compiled': (partial(with_more, compile=dict(backend='eager')), 2, 6),
}  # fmt: skip
QUICK = ['iters', 'epochs', 'methods that keep something', 'a detector']
LONG = [name for name in RUNS if name not in QUICK]


def files_of(name):
    """The names of the files where a run begins again, and where it ends."""
    kind = 'epoch' if 'epochs' in name else 'iter'
    return [f'{kind}_{number}' for number in RUNS[name][1:]]


def noted(run, *args, **options):
    """What the steps of a run see."""
    Diary.seen.clear()
    run(*args, **options)
    return list(Diary.seen)


@functools.cache
def uninterrupted(name='iters'):
    """The folder of a run that was not interrupted, and what its steps saw."""
    folder = toys.fresh_dir()
    return folder, noted(RUNS[name][0], folder)
