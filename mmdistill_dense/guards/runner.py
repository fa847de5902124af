"""What is looked at before the first iteration: loaders that give nothing, checkpoints that could not be written or do
not fit."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor

from mmdistill_dense.config.unknown_keys import hint
from mmdistill_dense.utils.messages import some
from mmdistill_dense.utils.runner_internals import built_loop, resumes, start_file


def check_loaders(runner: Runner) -> None:
    """Refuse a training or validation set without a picture, and epochs without a batch.

    mmengine waits for ever for the first batch of an empty set, and takes epochs of no batch for done.

    Raises:
        ValueError: Names the loader and what to look at.
    """
    for name, loop in ((name, built_loop(runner, name)) for name in ('train', 'val')):
        loader: Any = getattr(loop, 'dataloader', None)
        if loader is None or not hasattr(loader.dataset, '__len__'):
            continue
        count = len(loader.dataset)
        if count == 0:
            raise ValueError(
                f'{name}_dataloader.dataset holds no picture: look at its folders, ann_file and what leaves pictures '
                'out (indices, filter_cfg).'
            )
        if isinstance(loop, EpochBasedTrainLoop) and len(loader) == 0:
            raise ValueError(
                f'{name}_dataloader gives no batch: drop_last=True, and its {count} pictures make no whole batch on '
                'each process. Lower batch_size, or set drop_last=False.'
            )


def check_checkpoints(runner: Runner) -> None:
    """Refuse a misspelt option of the checkpoint hook, which mmengine finds at the first save; keep two files.

    mmengine removes the oldest file before it writes the next: with ``max_keep_ckpts=1``, a disk that is full or a kill
    at that moment leaves none.

    Raises:
        ValueError: Names the option and the nearest one.
    """
    for hook in runner.hooks:
        if not isinstance(hook, CheckpointHook):
            continue
        taken = set(inspect.signature(Runner.save_checkpoint).parameters)
        known = taken | set(inspect.signature(CheckpointHook.__init__).parameters)
        for name in set(hook.args) - taken:
            raise ValueError(f'default_hooks.checkpoint.{name} is no option of CheckpointHook.{hint(name, known)}')
        if hook.max_keep_ckpts == 1:
            hook.max_keep_ckpts = 2
            runner.logger.warning(
                'CheckpointHook.max_keep_ckpts=1 removes the last checkpoint before the next one is written, and a '
                'full disk would leave none: 2 are kept.'
            )


def check_weights(runner: Runner, content: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another network; mmengine loads what fits of it, warns, and goes on.

    A run that resumes needs every tensor. A test needs those it finds in the right shape, and half of all, since old
    files are renamed on loading. A run that starts from ``load_from`` needs half of all, as a head may be new, or the
    whole backbone, which is less than that in many a detector.

    Args:
        runner: That is about to load.
        content: The checkpoint.

    Raises:
        ValueError: Counts what fits and names what does not.
    """
    model = getattr(runner.model, 'module', runner.model)  # of DDP, of test-time augmentation
    own = {name: value.shape for name, value in model.state_dict().items() if not name.endswith('num_batches_tracked')}
    state = content.get('state_dict', content)
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    given = {str(name).removeprefix('module.'): value.shape for name, value in tensors.items()}
    missing = [name for name in own if name not in given]
    shaped = [name for name, shape in own.items() if name in given and given[name] != shape]
    goes_on, tests = resumes(runner), built_loop(runner) is None
    starts = not goes_on and not tests and _whole_backbone(own, missing + shaped)
    too_few = 2 * len(missing + shaped) > len(own) and not starts
    if (goes_on and missing) or (shaped and (goes_on or tests)) or too_few:
        key = 'The checkpoint to resume' if goes_on else f'load_from={start_file(runner)!r}'
        words = [
            f'{name} {tuple(given[name])} (model {tuple(own[name])})' for name in shaped if given[name] is not None
        ]
        raise ValueError(
            f'{key} fits {len(own) - len(missing + shaped)} of the {len(own)} tensors of {type(model).__name__}: it is '
            f'of another network or class list. Missing, or of another shape: {some(words + missing)}; it '
            f'holds {some(given)}.'
        )


def _whole_backbone(own: Iterable[str], lacking: Iterable[str]) -> bool:
    backbone = {name for name in own if name.startswith('backbone.')}
    return bool(backbone) and backbone.isdisjoint(lacking)
