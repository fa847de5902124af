"""The script that does the runs of a suite by Slurm."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from mmdistill_dense.apps.suite.definition import OWN_SLURM, Definition
from mmdistill_dense.apps.suite.plan import Run, place_of
from mmdistill_dense.apps.suite.pool import job_words, tail

MODULE = 'mmdistill_dense suite'
SIGNAL = 'USR1@120'  # to the job's steps, 120 seconds before its time limit
JOBS = 'jobs.txt'  # a line a submitted job: its number, and the folder of its run
_TABLE = ('partition', 'account', 'qos')  # options that the table's job needs, too
# since Slurm 22.05, srun does not take the number of the job by itself
_CPUS = '${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK}'
_FIRST = '$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1)'
# what a job does that saved itself before its time limit; 128 + SIGUSR1. A cancelled one has another status
_AGAIN = (
    ' || { code=$?; [ $code = 138 ] && [ ${SLURM_RESTART_COUNT:-0} -lt 100 ] && scontrol requeue $SLURM_JOB_ID; '
    'exit $code; }'
)
# evaluated on the node, where each job needs its own port
_PORT = 'export MASTER_PORT=$((20000 + SLURM_JOB_ID % 12000)) && '


def slurm_script(definition: Definition, todo: Sequence[Run]) -> str:
    """Return the script; it leaves out jobs in the queue, and shows the end of the log of those that failed."""
    logs, most = definition.out / 'slurm', definition.slurm['most']
    queued, gone = _submitted(logs / JOBS)
    lines = [
        '#!/bin/sh',
        f'# {definition.title}: run this in {Path.cwd()}',
        'set -e',
        f'mkdir -p {shlex.quote(str(logs))}',
    ]
    keys = {run.folder: place_of(definition, run) for run in todo}
    # where there are several clusters, sbatch prints NUMBER;CLUSTER
    jobs = {run.folder: queued.get(keys[run.folder], f'${{job{number}%%;*}}') for number, run in enumerate(todo)}
    placed = [jobs[run.folder] for run in todo if keys[run.folder] in queued]
    for number, run in enumerate(todo):
        key, job = keys[run.folder], jobs[run.folder]
        if key in queued:
            lines.append(f'# {run.title} is in the queue: job {job}')
            continue
        if key in gone:
            log = logs / f'{_name(run.title)}-{gone[key]}.txt'
            lines.append(f'# {run.title}: job {gone[key]} has ended without a result. {log} ends with:')
            lines += [f'# {line}' for line in tail(log).splitlines()]
        needed = [jobs[folder] for folder in run.after if folder in jobs]
        waits = [f'afterok:{":".join(needed)}'] if needed else []
        if most and len(placed) >= most:
            waits.append(f'afterany:{placed[-most]}')
        placed.append(job)
        wait = f' --dependency={",".join(waits)} --kill-on-invalid-dep=yes' if waits else ''
        wrapped = _wrap(definition, _command(definition, run))
        command = f'sbatch --parsable{_options(definition, run.title, logs)}{wait} {wrapped}'
        lines += [f'job{number}=$({command})', f'echo "{job} {key}" >> {shlex.quote(str(logs / JOBS))}']
    lines.append(_table_line(definition, logs, list(jobs.values())))
    return '\n'.join(lines) + '\n'


def _submitted(file: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the jobs of earlier scripts by the folders of their runs below ``out``: those in the queue, and others."""
    if not file.is_file():
        return {}, {}
    command = ['squeue', '--noheader', '--me', '--format=%i %j']
    try:
        answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise RuntimeError(
            f'{file} lists jobs that an earlier script has submitted, and squeue cannot tell which of them still wait '
            f'({error}). Print the script on a machine of the cluster; if none of them waits, remove the file.'
        ) from error
    known = {line.split()[0] for line in answer.stdout.splitlines() if line.strip()}
    told = [line.split(maxsplit=1) for line in file.read_text(encoding='utf-8').splitlines()]
    jobs = {words[1]: words[0] for words in told if len(words) == 2}
    queued = {folder: number for folder, number in jobs.items() if number in known}
    return queued, {folder: number for folder, number in jobs.items() if number not in known}


def _options(definition: Definition, title: str, logs: Path) -> str:
    slurm = {key: value for key, value in definition.slurm.items() if key not in OWN_SLURM}
    processes, torchrun = definition.slurm['processes'], definition.slurm['launcher'] != 'slurm'
    nodes = definition.slurm.get('nodes', 1)
    if not {'ntasks', 'ntasks-per-node'} & slurm.keys():
        slurm['ntasks'] = nodes if torchrun else processes  # one torchrun a node
    if _signalled(definition):
        slurm = {'requeue': True, 'signal': SIGNAL, **slurm}
    if definition.threads is not None:
        cpus = definition.threads + (definition.workers or 0)
        slurm.setdefault('cpus-per-task', cpus * processes // nodes if torchrun else cpus)
    return f'{_names(title, logs)}{_flags(slurm)}'


def _name(title: str) -> str:
    return title.replace(' ', '-').replace('/', '_')


def _names(title: str, logs: Path) -> str:
    name = _name(title)
    return f' --job-name={shlex.quote(name)} --output={shlex.quote(str(logs / f"{name}-%j.txt"))}'


def _flags(options: dict[str, object]) -> str:
    given = [(key, value) for key, value in options.items() if value not in (False, None)]
    return ''.join(f' --{key}' + ('' if value is True else f'={shlex.quote(str(value))}') for key, value in given)


def _command(definition: Definition, run: Run) -> str:
    slurm = definition.slurm
    words = shlex.join(job_words(definition.path, run))
    python, count, launcher = slurm['python'], slurm['processes'], slurm['launcher']
    if launcher == 'slurm':
        many, port = (' --launcher slurm', _PORT) if count > 1 else ('', '')
        again = _AGAIN if _signalled(definition) else ''
        return f'{port}srun --kill-on-bad-exit=1 {_CPUS} {python} -m {MODULE} {words}{many}{again}'
    if count == 1:
        return f'{python} -m {MODULE} {words}'
    nodes = slurm.get('nodes', 1)
    torchrun = f'{python} -m torch.distributed.run --nproc_per_node={count // nodes}'
    job = f'-m {MODULE} {words} --launcher pytorch'
    if nodes == 1:
        return f'{_PORT}{torchrun} --master_port=$MASTER_PORT {job}'
    meeting = f'--rdzv_id=$SLURM_JOB_ID --rdzv_backend=c10d --rdzv_endpoint={_FIRST}:$MASTER_PORT'
    spread = f'srun --kill-on-bad-exit=1 --ntasks-per-node=1 {_CPUS}'
    return f'{_PORT}{spread} {torchrun} --nnodes={nodes} {meeting} {job}'


def _signalled(definition: Definition) -> bool:
    """Whether jobs are told of their time limit, save, and start again. torchrun would end without saying why."""
    return definition.slurm['launcher'] == 'slurm' and definition.slurm.get('requeue') is not False


def _wrap(definition: Definition, command: str) -> str:
    setup = definition.slurm['setup']
    return f'--wrap={shlex.quote(f"{setup} && {command}" if setup else command)}'


def _table_line(definition: Definition, logs: Path, jobs: Sequence[str]) -> str:
    wait = f' --dependency=afterany:{":".join(jobs)}' if jobs else ''
    options = _flags({key: value for key, value in definition.slurm.items() if key in _TABLE})
    command = f'{definition.slurm["python"]} -m {MODULE} table {shlex.quote(str(definition.path))}'
    return f'sbatch{_names("table", logs)}{options}{wait} {_wrap(definition, command)}'
