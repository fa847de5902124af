"""Several processes: the distributed wrapper, and gloo on machines without an accelerator."""

import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch.distributed as dist
from mmengine.device import get_device
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
    SyncBN, which needs GPUs, into BN: each process then normalises with its own part of the batch, as the log says. The
    options are those of torch's DistributedDataParallel.
    """

    def __init__(self, module: nn.Module, device_ids: Sequence[int] | None = None, **kwargs: Any) -> None:
        if all(parameter.device.type == 'cpu' for parameter in module.parameters()):
            device_ids = None
            if count := sum('SyncBatchNorm' in type(part).__name__ for part in module.modules()):
                message = f'{count} SyncBN layers become BN: on the CPU each process normalises its part of the batch'
                print_log(message, logger='current', level=logging.WARNING)
                module = revert_sync_batchnorm(module)
        super().__init__(module=module, device_ids=device_ids, **kwargs)


def check_equal_epochs(runner: Runner) -> None:
    """Refuse processes with different numbers of batches in an epoch, which would wait for each other forever."""
    if get_world_size() == 1 or not isinstance(runner.train_loop, EpochBasedTrainLoop):
        return
    counts = all_gather_object(len(runner.train_dataloader))
    if len(set(counts)) > 1:
        raise ValueError(
            f'train_dataloader gives the processes {", ".join(map(str, counts))} batches an epoch: some would wait for '
            'the others forever. Set train_dataloader.sampler.round_up=True or, if it makes them equal, drop_last=True.'
        )


def warn_of_other_processes(runner: Runner, checkpoint: Mapping[str, Any]) -> None:
    """Warn if a run is resumed with another number of processes, which divide the data in another way."""
    old, new = (checkpoint.get('meta') or {}).get('processes'), get_world_size()
    if old not in (None, new) and is_main_process():  # older files lack it
        runner.logger.warning(
            f'The run to resume had {old} process(es), this one has {new}: a step takes {new / old:g} times as many '
            'pictures, so the result is another. Start as many processes as before.'
        )


def requested_launcher(argv: Sequence[str]) -> str | None:
    """Return the value of ``--launcher X`` or ``--launcher=X`` on a command line, or None."""
    words = [part for word in argv for part in (word.split('=', 1) if word.startswith('--launcher=') else [word])]
    return next((value for name, value in pairwise(words) if name == '--launcher'), None)


def choose_port(argv: Sequence[str] | None = None) -> None:
    """Give each slurm job a port of its own, unless MASTER_PORT is set: two jobs may share a node.

    mmengine takes 29500 for all. The number of the job gives a port from 20000 on, below those that Linux hands out.
    """
    is_slurm = requested_launcher(sys.argv if argv is None else argv) == 'slurm'
    if is_slurm and os.environ.get('SLURM_JOB_ID', '').isdigit():
        os.environ.setdefault('MASTER_PORT', str(20000 + int(os.environ['SLURM_JOB_ID']) % 12000))


def adopt_slurm_environment() -> None:
    """Set the variables of torch's ``env://`` rendezvous from srun's; keep MASTER_ADDR and MASTER_PORT if set."""
    if 'MASTER_ADDR' not in os.environ:
        nodes = os.environ['SLURM_NODELIST']
        command = ['scontrol', 'show', 'hostnames', nodes]
        try:
            answer = subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            problem = f'scontrol names no host of {nodes!r} ({error})'
            raise RuntimeError(f'{problem}: set MASTER_ADDR to the first') from error
        os.environ['MASTER_ADDR'] = answer.stdout.split()[0]
    os.environ.setdefault('MASTER_PORT', '29500')
    os.environ['RANK'] = os.environ['SLURM_PROCID']
    os.environ['WORLD_SIZE'] = os.environ['SLURM_NTASKS']
    os.environ['LOCAL_RANK'] = os.environ.get('SLURM_LOCALID', '0')


def open_gloo(argv: Sequence[str] | None = None) -> bool:
    """Open a gloo process group if a launcher started this process and there is no accelerator.

    torchrun (``--launcher pytorch``) is recognised by RANK and WORLD_SIZE. srun is used only with ``--launcher slurm``,
    because a batch script with a single process has the same SLURM variables and would wait for others forever.
    """
    launcher = requested_launcher(sys.argv if argv is None else argv)
    if not dist.is_available() or dist.is_initialized() or get_device() != 'cpu':
        return False
    if launcher == 'slurm' and {'SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'} <= os.environ.keys():
        adopt_slurm_environment()
    elif launcher not in (None, 'pytorch') or not {'RANK', 'WORLD_SIZE'} <= os.environ.keys():
        return False
    os.environ.setdefault('MASTER_ADDR', '127.0.0.1')
    os.environ.setdefault('MASTER_PORT', '29500')
    again = os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')
    if again == '0':
        dist.init_process_group('gloo')
    else:  # torch reads the addresses of the ended processes from the launcher's store
        store, rank, size = next(dist.rendezvous('env://'))
        dist.init_process_group('gloo', store=dist.PrefixStore(f'restart_{again}', store), rank=rank, world_size=size)
    return True
