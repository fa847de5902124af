"""The work folder of a run: its name, the checkpoints in it, and from which of them a run goes on."""

import os
import re
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import barrier, broadcast_object_list, is_main_process
from mmengine.runner import Runner

from mmdistill_dense.config.resolve import all_bases_of, read_file, written
from mmdistill_dense.utils.runner_internals import built_loop, resumes, start_file, start_from
from mmdistill_dense.weights.safe_load import read_checkpoint

_RESTARTS = ('TORCHELASTIC_RESTART_COUNT', 'SLURM_RESTART_COUNT')
_BEGUN = '.begun'  # touched by a run that begins anew: older checkpoints in its folder are not its own
_LOAD_FROM = re.compile('(?:--cfg-options=)?load_from=(.*)')
_STAMP = re.compile(r'_\d{8}_\d{6}$')  # mmengine's experiment_name is FILE_DAY_TIME


def folder_of(config: Config) -> str:
    """Return the work folder of a run: one that is inherited, and named after a base, gets the name of the file itself.

    mmengine puts the name of the base into the ``{{ fileBasenameNoExtension }}`` of a base.
    """
    work_dir, file = config.get('work_dir'), Path(config.filename or '')
    if not work_dir:
        return str(Path('work_dirs', file.stem))
    if file.suffix != '.py' or not file.is_file() or 'work_dir' in written(file.read_text(encoding='utf-8')):
        return work_dir
    is_inherited = Path(work_dir).name in {base.stem for base in all_bases_of(file)}
    return str(Path(work_dir).with_name(file.stem)) if is_inherited else work_dir


def refuse_another_run(runner: Runner) -> None:
    """Refuse to write over the checkpoints of another config: a config inherits the ``work_dir`` of its base.

    A run that resumes is compared by its teachers and distillers instead; another run of the same file begins anew; one
    whose config sets ``experiment_name`` is not known by its file.
    """
    folder, stem = Path(runner.work_dir), Path(runner.cfg.filename or '').stem
    if resumes(runner) or not stem or runner.cfg.get('experiment_name'):
        return
    entries = [_run_in(folder) if is_main_process() else ('', '')]
    broadcast_object_list(entries)
    file, other = entries[0]
    if other not in ('', stem):
        raise ValueError(
            f'work_dir={str(folder)!r} holds {file} of {other}.py, which this run of {stem}.py would write over. '
            f'Set work_dir={f"work_dirs/{stem}"!r} in {stem}.py, or --work-dir; or remove the folder.'
        )


def _run_in(folder: Path) -> tuple[str, str]:
    """Return the last checkpoint in a folder and the config that wrote it; both are empty where none says it."""
    with suppress(KeyError, ValueError):  # a damaged one
        if last := latest_checkpoint(folder):
            experiment = str(read_checkpoint(last, lazily=True).get('meta', {}).get('experiment_name', ''))
            if (config := _STAMP.sub('', experiment)) != experiment:
                return last.name, config
    return '', ''


def choose_checkpoint(runner: Runner) -> None:
    """Set the file that a run goes on from or starts with, where mmengine would take another one."""
    loop = built_loop(runner)
    if loop is not None and not getattr(loop, 'iter', 0):  # not a test after the training
        if (start := _start_in_file(runner)) is not None:
            resume_the_latest(runner, start)
        go_on_after_restart(runner)
    resume_from_a_whole_file(runner)


def own_checkpoint(folder: Path) -> Path | None:
    """Return the latest checkpoint of the last run in a folder, which may hold checkpoints of earlier runs."""
    marker = folder / _BEGUN
    since = marker.stat().st_mtime_ns if marker.is_file() else 0
    pointer = Path(_noted_checkpoint(folder))  # elsewhere, where `out_dir` or `filename_tmpl` is set
    return latest_checkpoint(folder, since) or (pointer if _is_whole(pointer, since) else None)


def _noted_checkpoint(folder: Path) -> str:
    """Return the path that mmengine noted; empty without a note."""
    pointer = folder / 'last_checkpoint'
    return pointer.read_text(encoding='utf-8').strip() if pointer.is_file() else ''


def latest_checkpoint(folder: Path, since: int = 0) -> Path | None:
    """Return the latest whole checkpoint in a run's folder; skip files that a kill cut off, or of before a time.

    ``last_checkpoint``, which mmengine keeps, may name a file that is not whole, or be empty, after a kill.
    """
    checkpoints: list[Path] = []
    for kind in ('iter', 'epoch'):
        numbers = {path: path.stem.removeprefix(f'{kind}_') for path in folder.glob(f'{kind}_*.pth')}
        newest = sorted(filter(lambda path: numbers[path].isdigit(), numbers), key=lambda path: -int(numbers[path]))
        checkpoints += filter(None, [next((path for path in newest if _is_whole(path, since)), None)])
    return max(checkpoints, key=_iteration, default=None) if len(checkpoints) != 1 else checkpoints[0]


def _is_whole(path: Path, since: int) -> bool:
    """Tell whether a checkpoint was changed since a time, and its archive's directory, which is written last, is there.

    Another process may have removed it.
    """
    with suppress(FileNotFoundError):
        return zipfile.is_zipfile(path) and path.stat().st_mtime_ns >= since
    return False


def _iteration(path: Path) -> int:
    with suppress(KeyError, TypeError, ValueError):  # weights alone, or damaged
        return int(read_checkpoint(path, lazily=True)['meta']['iter'])
    return -1


def go_on_after_restart(runner: Runner) -> None:
    """Resume from the run's last checkpoint if torchrun or Slurm started the run again."""
    marker = Path(runner.work_dir, _BEGUN)
    again = any(os.environ.get(name, '0') not in ('', '0') for name in _RESTARTS)
    starts = not resumes(runner) or start_file(runner) is not None  # a file that is named is as far as it was then
    if again and starts and marker.is_file() and (last := own_checkpoint(marker.parent)) is not None:
        runner.logger.warning(f'The launcher started this run again: it goes on from {last.name}.')
        start_from(runner, str(last))
        starts = False
    barrier()  # all have looked
    if starts and is_main_process():
        marker.touch()


def resume_the_latest(runner: Runner, start: str | None) -> None:
    """Resume from the work folder; while it has no checkpoint, begin a new run from the weights in ``start``."""
    folder = Path(runner.work_dir)
    if latest_checkpoint(folder) is not None or (folder / 'last_checkpoint').is_file():
        start_from(runner, None)
    else:
        runner.logger.info(f'{folder} has no checkpoint to resume: a new run begins, with load_from={start!r}.')
        start_from(runner, start, resume=False)


def _start_in_file(runner: Runner) -> str | None:
    """Return ``load_from`` of the config's file if the run resumes and nobody named a file to resume from.

    With ``--resume``, mmseg's script leaves this option in place, so mmengine would resume from it. mmdet's drops it,
    also that of ``--cfg-options``, so the first start of a run would have random weights.
    """
    path = runner.cfg.filename
    if not resumes(runner) or not path or not Path(path).is_file():
        return None
    options = [match[1].strip('"\'') for word in sys.argv if (match := _LOAD_FROM.fullmatch(word))]
    if options and start_file(runner) is None:
        return options[-1] if options[-1] not in ('', 'None') else None
    file = read_file(path)
    start = file.get('load_from')
    is_named = file.get('resume') or any(word.endswith(str(start)) for word in sys.argv)
    return start if start_file(runner) in (None, start) and not is_named else None


def resume_from_a_whole_file(runner: Runner) -> None:
    """Let ``--resume`` without a file use the latest whole checkpoint if ``last_checkpoint`` does not name one.

    mmengine empties ``last_checkpoint`` after it saved, and writes the name then: a run may end in between. The name
    holds the folder, so a copy of that would go on from the checkpoint of the original.
    """
    if not resumes(runner) or start_file(runner) is not None:
        return
    pointer = Path(runner.work_dir, 'last_checkpoint')
    name = _noted_checkpoint(pointer.parent)
    local_file = pointer.parent / Path(name).name
    moved = zipfile.is_zipfile(local_file) and not (Path(name).exists() and local_file.samefile(name))
    if '://' in name or (not moved and (zipfile.is_zipfile(name) or (name and Path(name).is_dir()))):
        return
    checkpoint = local_file if moved else own_checkpoint(pointer.parent) or latest_checkpoint(pointer.parent)
    if checkpoint is not None:
        problem = f'names {name!r} of another folder' if moved else f'names no whole file ({name!r})'
        runner.logger.warning(f'{pointer} {problem}: the run goes on from {checkpoint if moved else checkpoint.name}.')
        start_from(runner, str(checkpoint))
    elif pointer.is_file() and not name:
        problem = f'{pointer} is empty, and no whole checkpoint is beside it'
        raise ValueError(f'{problem}: remove it, or name a file with --resume FILE.')
