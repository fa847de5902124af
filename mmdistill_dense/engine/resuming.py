"""From which file a run goes on after it was ended at any moment."""

from __future__ import annotations

import zipfile
from pathlib import Path

from mmengine.runner import Runner


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the latest whole checkpoint of a run's folder; one that a kill cut off is passed over.

    ``last_checkpoint``, which mmengine keeps, may name a file that is not whole, or be empty, after a kill.

    Args:
        folder: The ``work_dir`` of a run.
    """
    files = [path for path in folder.glob('*.pth') if path.stem.rpartition('_')[0] in ('iter', 'epoch')]
    for path in sorted(files, key=lambda path: int(path.stem.rpartition('_')[2]), reverse=True):
        if zipfile.is_zipfile(path):  # the directory of the archive is written last
            return path
    return None


def resume_from_a_whole_file(runner: Runner) -> None:
    """Let ``--resume`` without a file find the latest whole checkpoint where ``last_checkpoint`` does not name one.

    mmengine writes ``last_checkpoint`` after the checkpoint, and empties it before it writes the name: a process that
    ends in between could not be resumed, or would begin anew beside its checkpoint.

    Args:
        runner: Before it has loaded anything.

    Raises:
        ValueError: When ``last_checkpoint`` is empty and there is nothing else to go on from.
    """
    if not runner._resume or runner._load_from is not None:
        return
    pointer = Path(runner.work_dir, 'last_checkpoint')
    name = pointer.read_text(encoding='utf-8').strip() if pointer.is_file() else ''
    if '://' in name or (name and Path(name).is_dir()) or zipfile.is_zipfile(name):
        return
    found = latest_checkpoint(pointer.parent)
    if found is not None:
        runner.logger.warning(f'{pointer} names no whole file ({name!r}): the run goes on from {found.name}.')
        runner._load_from = str(found)
    elif pointer.is_file() and not name:
        raise ValueError(
            f'{pointer} is empty and no whole checkpoint is beside it: remove it to begin anew, or name the file to go '
            'on from, --resume FILE.'
        )
