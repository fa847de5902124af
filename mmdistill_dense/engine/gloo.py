"""Open a gloo process group on machines without an accelerator, where mmengine's launchers would fail.

The launchers select a CUDA device before they open a process group, but do neither if a group is already open. This
module does nothing on a machine with an accelerator or in a single process.
"""

import os
import subprocess
import sys
from collections.abc import Sequence

import torch.distributed as dist
from mmengine.device import get_device


def requested_launcher(argv: Sequence[str]) -> str | None:
    """Return the value of ``--launcher X`` or ``--launcher=X`` on a command line, or None."""
    for position, word in enumerate(argv):
        if word.startswith('--launcher='):
            return word.partition('=')[2]
        if word == '--launcher' and position + 1 < len(argv):
            return argv[position + 1]
    return None


def choose_port(argv: Sequence[str] | None = None) -> None:
    """Give each slurm job a port of its own, unless MASTER_PORT is set: two jobs may share a node.

    mmengine takes 29500 for all. The number of the job gives a port from 20000 on, below those that Linux hands out.

    Args:
        argv: The command line. Default: that of this process.
    """
    asked = requested_launcher(sys.argv if argv is None else argv) == 'slurm'
    if asked and os.environ.get('SLURM_JOB_ID', '').isdigit():
        os.environ.setdefault('MASTER_PORT', str(20000 + int(os.environ['SLURM_JOB_ID']) % 12000))


def adopt_slurm_environment() -> None:
    """Set the variables of torch's ``env://`` rendezvous from srun's; keep MASTER_ADDR and MASTER_PORT if set."""
    if 'MASTER_ADDR' not in os.environ:
        os.environ['MASTER_ADDR'] = _first_slurm_host(os.environ['SLURM_NODELIST'])
    os.environ.setdefault('MASTER_PORT', '29500')
    os.environ['RANK'] = os.environ['SLURM_PROCID']
    os.environ['WORLD_SIZE'] = os.environ['SLURM_NTASKS']
    os.environ['LOCAL_RANK'] = os.environ.get('SLURM_LOCALID', '0')


def _first_slurm_host(nodes: str) -> str:
    try:
        answer = subprocess.run(['scontrol', 'show', 'hostnames', nodes], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RuntimeError(
            f'scontrol cannot tell the first host of {nodes!r} ({error}); set MASTER_ADDR to its name'
        ) from error
    return answer.stdout.split()[0]


def open_gloo(argv: Sequence[str] | None = None) -> bool:
    """Open a gloo process group if a launcher started this process and there is no accelerator.

    torchrun (``--launcher pytorch``) is recognised by RANK and WORLD_SIZE. srun is used only with ``--launcher slurm``,
    because a batch script with a single process has the same SLURM variables and would wait for others forever.

    Args:
        argv: The command line. Default: that of this process.

    Returns:
        Whether a group was opened.
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
    dist.init_process_group('gloo')
    return True
