"""Write the files of a project into its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmengine.config import Config

from mmdistill_dense.config.resolve import TASKS
from mmdistill_dense.project.config_files import WORK
from mmdistill_dense.recipes.check_data import check_data
from mmdistill_dense.utils.literals import BRACES
from mmdistill_dense.utils.silence import quiet


def write(files: Mapping[str, str], folder: Path) -> None:
    """Write files into a folder, and read them as configs. Files with other contents stay."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f'--out {folder}: a file of this name is there. Give another --out.')
    _check_names(files)
    there = [name for name in files if (folder / name).is_file()]
    changed = [name for name in there if (folder / name).read_text(encoding='utf-8') != files[name]]
    if changed:
        raise FileExistsError(
            f'--out {folder}: {", ".join(changed)} exist there with other contents. Give another --out.'
            f'{_results(folder)}'
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding='utf-8')
    except OSError as error:
        raise OSError(
            f'--out {folder}: cannot be written ({error.strerror}: {error.filename}). Choose another folder.'
        ) from error
    with quiet():
        for name in files:
            if name.endswith('.py') and name not in ('data.py', 'pair.py'):
                config = Config.fromfile(folder / name)
                check_data(config, TASKS[config.default_scope])


def _check_names(files: Mapping[str, str]) -> None:
    """Refuse ``{{`` in names. Our files hold it safely, but not the copy that mmengine writes in each training."""
    texts = [text for name, text in files.items() if name.endswith('.py')]
    if lines := [line.strip() for text in texts for line in text.splitlines() if BRACES in line]:
        raise ValueError(
            f'{lines[0]}: a name of a class, file or folder has two braces in it (written {BRACES} here), which '
            'mmengine replaces in configs. Rename it.'
        )


def _results(folder: Path) -> str:
    """Say what would be lost with a folder."""
    place = folder / WORK
    if place.is_dir() and any(place.iterdir()):
        return f' Do not remove the folder to write it anew: {place} holds results of trainings.'
    return ' Or remove this one, which holds no results.'
