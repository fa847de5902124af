"""Stop at once if mmcv has no compiled operations; runtime_det.py names this module in ``custom_imports``."""

import importlib

import mmcv

REMEDY = (
    'run `make setup` in the checkout of mmdistill_dense, or in your own environment `pip install --no-cache-dir '
    '--no-build-isolation --no-deps --force-reinstall onedl-mmcv` after torch, setuptools, wheel and ninja'
)


def require_ops() -> None:
    """Raise a RuntimeError with one line when mmcv's compiled operations cannot be loaded.

    It is no ImportError, because mmengine would replace the message of one that comes from ``custom_imports``.
    """
    try:
        importlib.import_module('mmcv._ext')
    except ImportError as error:
        raise RuntimeError(
            f'detection needs the compiled operations of mmcv {mmcv.__version__} ({error}): {REMEDY}'
        ) from None


require_ops()
