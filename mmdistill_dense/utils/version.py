"""The version of the package, and what ``mmdistill --version`` prints: all that a report of a fault needs."""

import platform
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module

__version__ = '0.3.0'

# The maintained forks and the upstream packages share their import names; the one that is installed is shown.
STACK = {
    'mmengine': ('onedl-mmengine', 'mmengine', 'mmengine-lite'),
    'mmcv': ('onedl-mmcv', 'mmcv', 'mmcv-lite'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
}


def installed(name: str) -> dict[str, str]:
    """Return the versions of the distributions that are installed of a package of ``STACK``, by their names."""
    from importlib.metadata import PackageNotFoundError, version  # slow, and the package's face imports this file

    numbers = {}
    for distribution in STACK[name]:
        with suppress(PackageNotFoundError):
            numbers[distribution] = version(distribution)
    return numbers


def for_mim(scope: str) -> str:
    """Return what mim calls ``'mmseg'`` or ``'mmdet'``: detection has another name with the forks than upstream."""
    return 'mmdetection' if scope == 'mmdet' and 'mmdet' not in installed('mmdet') else scope


def versions() -> Iterator[str]:
    """Yield a line for this package, Python, torch with its devices, and each package of the mm* stack."""
    yield f'mmdistill_dense {__version__}'
    yield f'Python {platform.python_version()}, {platform.platform()}'
    try:
        import torch
    except ImportError:
        yield 'torch: not installed'
    else:
        cuda = torch.cuda.is_available()
        devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())] if cuda else []
        yield f'torch {torch.__version__}, CUDA {torch.version.cuda or "no"}, GPUs: {", ".join(devices) or "none"}'
    for name in STACK:
        packages = [f'{distribution} {number}' for distribution, number in installed(name).items()]
        note = ' (in one folder: uninstall all, and install one anew)' if len(packages) > 1 else ''
        yield f'{name}: {", ".join(packages) or "not installed"}{note}'
    try:
        import_module('mmcv._ext')
    except ImportError:
        yield 'operations of mmcv: missing, so detectors do not train'
    else:
        yield 'operations of mmcv: compiled'
