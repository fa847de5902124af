"""Check on import that the mm* stack is installed, and tell how to install it if not."""

from importlib.util import find_spec


def require_stack() -> None:
    """Raise a ModuleNotFoundError with the commands to run when mmengine or mmcv cannot be found."""
    missing = [name for name in ('mmengine', 'mmcv') if find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f'mmdistill_dense needs {" and ".join(missing)}. In its checkout run `make setup` (an environment of its '
            "own) or `pip install -e '.[onedl]'` (the maintained forks)"
        )


require_stack()
