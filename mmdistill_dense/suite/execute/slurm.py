"""Make a shell script that submits every unfinished run of a suite, and then its table, to slurm."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from mmdistill_dense.suite.definition.definition import OWN_SLURM, Definition
from mmdistill_dense.suite.execute.pool import job_words
from mmdistill_dense.suite.plan.runs import Run

MODULE = 'mmdistill_dense.suite.cli'
_TABLE = ('partition', 'account', 'qos')  # options that the table's job needs, too
# evaluated on the node, where each job needs its own port
# since Slurm 22.05, srun does not take the number of the job by itself
_CPUS = '${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK}'
_PORT = 'export MASTER_PORT=$((20000 + SLURM_JOB_ID % 12000)) && '


def script(definition: Definition, todo: Sequence[Run]) -> str:
    """Return the script. Each job waits for the jobs whose results it needs."""
    logs = definition.out / 'slurm'
    names = {run.folder: f'job{number}' for number, run in enumerate(todo)}
    lines = [
        '#!/bin/sh',
        f'# {definition.title}: run this in {Path.cwd()}',
        'set -e',
        f'mkdir -p {shlex.quote(str(logs))}',
    ]
    for run in todo:
        needed = [_job(names[folder]) for folder in run.after if folder in names]
        wait = f' --dependency=afterok:{":".join(needed)} --kill-on-invalid-dep=yes' if needed else ''
        wrapped = _wrap(definition, _command(definition, run))
        command = f'sbatch --parsable{_options(definition, run.title, logs)}{wait} {wrapped}'
        lines.append(f'{names[run.folder]}=$({command})')
    lines.append(_table_line(definition, logs, list(names.values())))
    return '\n'.join(lines) + '\n'


def _job(name: str) -> str:
    return f'${{{name}%%;*}}'  # where there are several clusters, sbatch prints NUMBER;CLUSTER


def _options(definition: Definition, title: str, logs: Path) -> str:
    slurm = {key: value for key, value in definition.slurm.items() if key not in OWN_SLURM}
    processes, torchrun = definition.slurm['processes'], definition.slurm['launcher'] != 'slurm'
    if not {'ntasks', 'ntasks-per-node'} & slurm.keys():
        slurm['ntasks'] = 1 if torchrun else processes
    if definition.threads is not None:
        cpus = definition.threads + (definition.workers or 0)
        slurm.setdefault('cpus-per-task', cpus * processes if torchrun else cpus)
    return f'{_names(title, logs)}{_flags(slurm)}'


def _names(title: str, logs: Path) -> str:
    name = title.replace(' ', '-').replace('/', '_')
    return f' --job-name={shlex.quote(name)} --output={shlex.quote(str(logs / f"{name}-%j.txt"))}'


def _flags(options: dict[str, object]) -> str:
    given = {key: value for key, value in options.items() if value is not False}
    return ''.join(
        f' --{key}' if value is True else f' --{key}={shlex.quote(str(value))}' for key, value in given.items()
    )


def _command(definition: Definition, run: Run) -> str:
    slurm = definition.slurm
    words = shlex.join(job_words(definition.path, run))
    python, count, launcher = slurm['python'], slurm['processes'], slurm['launcher']
    if count == 1:
        return f'{python} -m {MODULE} {words}'
    if launcher == 'slurm':
        return f'{_PORT}srun {_CPUS} {python} -m {MODULE} {words} --launcher slurm'
    torchrun = f'{python} -m torch.distributed.run --nproc_per_node={count} --master_port=$MASTER_PORT'
    return f'{_PORT}{torchrun} -m {MODULE} {words} --launcher pytorch'


def _wrap(definition: Definition, command: str) -> str:
    setup = definition.slurm['setup']
    return f'--wrap={shlex.quote(f"{setup} && {command}" if setup else command)}'


def _table_line(definition: Definition, logs: Path, jobs: Sequence[str]) -> str:
    wait = f' --dependency=afterany:{":".join(_job(job) for job in jobs)}' if jobs else ''
    options = _flags({key: value for key, value in definition.slurm.items() if key in _TABLE})
    command = f'{definition.slurm["python"]} -m {MODULE} table {shlex.quote(str(definition.path))}'
    return f'sbatch{_names("table", logs)}{options}{wait} {_wrap(definition, command)}'
