"""The work folder of a config, which may inherit another one."""

import re
from contextlib import suppress
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.runner import Runner

from mmdistill_dense.config.resolve import all_bases_of, written
from mmdistill_dense.engine.resume import latest_checkpoint
from mmdistill_dense.utils.runner_internals import resumes
from mmdistill_dense.weights.safe_load import read_checkpoint

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
    ((file, other),) = entries
    if other not in ('', stem):
        raise ValueError(
            f'work_dir={str(folder)!r} holds {file} of {other}.py, which this run of {stem}.py would write over. '
            f'Set work_dir={f"work_dirs/{stem}"!r} in {stem}.py, or --work-dir; or remove the folder.'
        )


def _run_in(folder: Path) -> tuple[str, str]:
    """Return the last checkpoint in a folder and the config that wrote it; both are empty where none says it."""
    if not (last := latest_checkpoint(folder)):
        return '', ''
    with suppress(ValueError):  # a damaged one
        experiment = str(read_checkpoint(last, lazily=True).get('meta', {}).get('experiment_name', ''))
        if (config := _STAMP.sub('', experiment)) != experiment:
            return last.name, config
    return '', ''
