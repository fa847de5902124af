"""Distributed wrapper for GPU and CPU processes, and checks that the processes agree."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.dist import all_gather_object, get_world_size, is_main_process
from mmengine.logging import print_log
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from mmdistill_dense.registry import MODEL_WRAPPERS


@MODEL_WRAPPERS.register_module()
class DistillDDP(MMDistributedDataParallel):
    """mmengine's DDP that also wraps a model whose parameters lie on the CPU.

    On a GPU it behaves as mmengine's class. On the CPU it drops ``device_ids``, which torch refuses there, and turns
    SyncBN, which needs GPUs, into BN: each process then normalises with its own part of the batch, as the log says.

    Args:
        module: The model.
        device_ids: The GPU of this process, as mmengine's runner passes it; ignored on the CPU. Default None.
        **kwargs: Options of torch's DistributedDataParallel, such as ``broadcast_buffers``.
    """

    def __init__(self, module: nn.Module, device_ids: Sequence[int] | None = None, **kwargs: Any) -> None:
        if all(parameter.device.type == 'cpu' for parameter in module.parameters()):
            device_ids = None
            module = _without_sync_bn(module)
        super().__init__(module=module, device_ids=device_ids, **kwargs)


def _without_sync_bn(module: nn.Module) -> nn.Module:
    synchronised = sum('SyncBatchNorm' in type(part).__name__ for part in module.modules())
    if not synchronised:
        return module
    message = f'{synchronised} SyncBN layers become BN: on the CPU each process normalises its own part of the batch'
    print_log(message, logger='current', level=logging.WARNING)
    return revert_sync_batchnorm(module)


def check_equal_epochs(runner: Runner) -> None:
    """Refuse processes with different numbers of batches in an epoch, which would wait for each other forever.

    Raises:
        ValueError: In all processes; with the numbers by rank.
    """
    if get_world_size() == 1 or not isinstance(runner.train_loop, EpochBasedTrainLoop):
        return
    counts = all_gather_object(len(runner.train_dataloader))
    if len(set(counts)) > 1:
        raise ValueError(
            f'train_dataloader gives the processes {", ".join(map(str, counts))} batches an epoch (by rank), and those '
            'with more would wait for the others forever: set train_dataloader.sampler.round_up=True, or '
            'train_dataloader.drop_last=True if that makes them equal.'
        )


def warn_of_other_processes(runner: Runner, checkpoint: Mapping[str, Any]) -> None:
    """Warn if a run is resumed with another number of processes, which divide the data in another way."""
    then, now = (checkpoint.get('meta') or {}).get('processes'), get_world_size()
    if then not in (None, now) and is_main_process():  # older files lack it
        runner.logger.warning(
            f'The run to resume had {then} process(es), this one has {now}: a step takes {now / then:g} times as many '
            'pictures, so the result is not that of an uninterrupted run. Start as many processes as before.'
        )
