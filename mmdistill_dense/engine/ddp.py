"""Distributed wrapper for GPU and CPU processes."""

import logging
from collections.abc import Sequence
from typing import Any

from mmengine.logging import print_log
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from torch import nn

from mmdistill_dense.registry import MODEL_WRAPPERS


@MODEL_WRAPPERS.register_module()
class DistillDDP(MMDistributedDataParallel):
    """mmengine's DDP that also wraps a model whose parameters lie on the CPU.

    On a GPU it is mmengine's own class. On the CPU it drops ``device_ids``, which torch refuses there, and turns SyncBN
    (for GPUs only) into BN: each process then normalises by its own part of the batch, as the log says.

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
    message = f'{synchronised} SyncBN layers become BN: on the CPU each process normalises by its own part of the batch'
    print_log(message, logger='current', level=logging.WARNING)
    return revert_sync_batchnorm(module)
