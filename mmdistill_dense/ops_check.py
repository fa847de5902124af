"""Stops at once where mmcv has no compiled operations; runtime_det.py names this module in ``custom_imports``."""

import importlib

import mmcv

REMEDY = (
    'run `make setup` in the checkout of mmdistill_dense, or in your own environment `pip install --no-cache-dir '
    '--no-build-isolation --no-deps --force-reinstall onedl-mmcv` after torch, setuptools, wheel and ninja'
)


def require_ops() -> None:
    """Raises a RuntimeError of one line when mmcv's compiled operations cannot be loaded.

    Not an ImportError: mmengine replaces that by a message of its own when it comes from ``custom_imports``.
    """
    try:
        importlib.import_module('mmcv._ext')
    except ImportError as error:
        raise RuntimeError(
            f'detection needs the compiled operations of mmcv {mmcv.__version__} ({error}): {REMEDY}'
        ) from None


require_ops()
