"""The version of the package, and what ``mmdistill --version`` prints: all that a report of a fault needs."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import import_module

__version__ = '0.2.0'

# The maintained forks and the upstream packages share their import names; the one that is installed is shown.
STACK = {
    'mmengine': ('onedl-mmengine', 'mmengine', 'mmengine-lite'),
    'mmcv': ('onedl-mmcv', 'mmcv', 'mmcv-lite'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
}


def versions() -> Iterator[str]:
    """Yield a line for this package, Python, torch with its devices, and each package of the mm* stack."""
    yield f'mmdistill_dense {__version__}'
    yield f'Python {platform.python_version()}, {platform.platform()}'
    yield _torch()
    for name, distributions in STACK.items():
        found = [told for one in distributions if (told := _installed(one))]
        yield f'{name}: {", ".join(found) or "not installed"}'
    yield f'operations of mmcv: {_operations()}'


def _installed(distribution: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version  # slow, and the package's face imports this file

    try:
        return f'{distribution} {version(distribution)}'
    except PackageNotFoundError:
        return None


def _torch() -> str:
    try:
        import torch
    except ImportError:
        return 'torch: not installed'
    cuda = torch.cuda.is_available()
    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())] if cuda else []
    return f'torch {torch.__version__}, CUDA {torch.version.cuda or "no"}, GPUs: {", ".join(devices) or "none"}'


def _operations() -> str:
    try:
        import_module('mmcv._ext')
    except ImportError:
        return 'missing, so detectors do not train'
    return 'compiled'
