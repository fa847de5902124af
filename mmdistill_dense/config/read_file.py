"""Read a config file; an error of its syntax names the file, which may be one of its bases."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config


def read_file(path: str | Path) -> Config:
    """Return the config in a file, as ``Config.fromfile`` does."""
    try:
        return Config.fromfile(path)
    except SyntaxError as error:
        raise ValueError(f'{broken_file(error) or path}: line {error.lineno} is no Python: {error.msg}.') from error


def broken_file(error: SyntaxError) -> str | None:
    """Return the file in which mmengine found a syntax error, or ``None`` if it cannot be told.

    mmengine parses the text of a file without its name, so the error has none. The functions that read a config, one
    within the other for each level of bases, hold it as ``filename``.
    """
    if error.filename and Path(error.filename).is_file():
        return error.filename
    found, step = None, error.__traceback__
    while step is not None:
        if step.tb_frame.f_globals.get('__name__') == 'mmengine.config.config':
            found = step.tb_frame.f_locals.get('filename', found)
        step = step.tb_next
    return None if found is None else str(found)
