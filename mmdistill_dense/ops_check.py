"""Stop at once if mmcv has no compiled operations; runtime_det.py names this module in ``custom_imports``."""

import importlib
from importlib.metadata import distributions

import mmcv

BUILD = 'pip install --no-cache-dir --no-build-isolation --no-deps --force-reinstall'
REMEDIES = {
    'onedl-mmcv': 'run `make setup` in the checkout of mmdistill_dense, or in your own environment '
    f'`{BUILD} onedl-mmcv` after torch, setuptools, wheel and ninja',
    'mmcv': f"run `{BUILD} 'mmcv>=2.1,<2.2'` after torch, 'setuptools<81', wheel, psutil and ninja",
    'mmcv-lite': "mmcv-lite never has them: uninstall it, and install 'mmcv>=2.1,<2.2' in its place",
}
"""What builds them, by the name of the package that mmcv was installed as."""


def require_ops() -> None:
    """Raise a RuntimeError with one line when mmcv's compiled operations cannot be loaded.

    It is no ImportError, because mmengine would replace the message of one that comes from ``custom_imports``.
    """
    try:
        importlib.import_module('mmcv._ext')
    except ImportError as error:
        installed = {distribution.metadata['Name'] for distribution in distributions()}
        remedy = next((text for name, text in REMEDIES.items() if name in installed), REMEDIES['mmcv'])
        raise RuntimeError(
            f'detection needs the compiled operations of mmcv {mmcv.__version__} ({error}): {remedy}'
        ) from None


require_ops()
