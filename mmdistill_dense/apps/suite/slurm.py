"""The script that does the runs of a suite by Slurm."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from mmdistill_dense.apps.suite.definition import OWN_SLURM, Definition
from mmdistill_dense.apps.suite.plan import Run
from mmdistill_dense.apps.suite.pool import job_words, tail

JOBS = 'jobs.txt'  # a line a submitted job: its number, and the folder of its run
SCRIPT = """#!/bin/sh
# {title}: run this in {folder}
set -e
mkdir -p {logs}
submit() {{  # NAME FOLDER DEPENDENCIES COMMAND
  job=$(sbatch --parsable --job-name="$1" --output={logs}/"$1-%j.txt"{options} $3 --wrap="$4")
  job=${{job%%;*}}  # where there are several clusters, sbatch prints NUMBER;CLUSTER
  echo "$job $2" >> {logs}/{jobs}
}}
{runs}
sbatch --job-name=table --output={logs}/table-%j.txt{table}{wait} --wrap={table_command}
"""
# since Slurm 22.05, srun does not take the number of the job by itself
SRUN = 'srun --kill-on-bad-exit=1{tasks} ${{SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK}} {command}'
MEET = (
    '--nnodes={nodes} --rdzv_id=$SLURM_JOB_ID --rdzv_backend=c10d '
    '--rdzv_endpoint=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1):$MASTER_PORT'
)
PORT = 'export MASTER_PORT=$((20000 + SLURM_JOB_ID % 12000)) && '  # each job of a node needs its own
SIGNAL = 'USR1@120'  # to the job's steps, 120 seconds before its time limit
# what a job does that saved itself before its time limit; 128 + SIGUSR1. A cancelled one has another status
AGAIN = (
    ' || { code=$?; [ $code = 138 ] && [ ${SLURM_RESTART_COUNT:-0} -lt 100 ] && scontrol requeue $SLURM_JOB_ID; '
    'exit $code; }'
)


def slurm_script(definition: Definition, todo: Sequence[Run]) -> str:
    """Return the script; it leaves out jobs in the queue, and shows the end of the log of those that failed."""
    slurm, logs = definition.slurm, definition.out / 'slurm'
    places = {run: run.folder.relative_to(definition.out).as_posix() for run in todo}
    queued, ended = _submitted(logs / JOBS)
    placed = [queued[place] for place in places.values() if place in queued]
    jobs, lines = dict[Path, str](), list[str]()
    for number, (run, place) in enumerate(places.items()):
        name = run.title.replace(' ', '-').replace('/', '_')
        if place in queued:
            jobs[run.folder] = queued[place]
            lines.append(f'# {run.title} is in the queue: job {queued[place]}')
            continue
        if place in ended:
            log = logs / f'{name}-{ended[place]}.txt'
            lines.append(f'# {run.title}: job {ended[place]} has ended without a result. {log} ends with:')
            lines += [f'# {line}' for line in tail(log).splitlines()]
        waits = [f'afterok:{jobs[folder]}' for folder in run.after if folder in jobs]
        waits += [f'afterany:{jobs[folder]}' for folder in run.heeds if folder in jobs]
        if slurm['most'] and len(placed) >= slurm['most']:
            waits.append(f'afterany:{placed[-slurm["most"]]}')
        after = f'--dependency={",".join(waits)} --kill-on-invalid-dep=yes' if waits else ''
        jobs[run.folder] = f'$job{number}'
        placed.append(jobs[run.folder])
        words = [shlex.quote(name), shlex.quote(place), f'"{after}"', shlex.quote(_command(definition, run))]
        lines.append(f'submit {" ".join(words)}; job{number}=$job')
    setup = f'{slurm["setup"]} && ' if slurm['setup'] else ''
    table = f'{setup}{slurm["python"]} -m mmdistill_dense suite table {shlex.quote(str(definition.path))}'
    return SCRIPT.format(
        title=definition.title,
        folder=Path.cwd(),
        logs=shlex.quote(str(logs)),
        jobs=JOBS,
        options=_options(definition),
        runs='\n'.join(lines),
        table=_flags({key: slurm[key] for key in ('partition', 'account', 'qos') if key in slurm}),
        wait=f' --dependency=afterany:{":".join(jobs.values())}' if jobs else '',
        table_command=shlex.quote(table),
    )


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
    waiting = {line.split()[0] for line in answer.stdout.splitlines() if line.strip()}
    told = [line.split(maxsplit=1) for line in file.read_text(encoding='utf-8').splitlines()]
    jobs = {words[1]: words[0] for words in told if len(words) == 2}
    queued = {folder: number for folder, number in jobs.items() if number in waiting}
    return queued, {folder: number for folder, number in jobs.items() if number not in waiting}


def _options(definition: Definition) -> str:
    slurm = {key: value for key, value in definition.slurm.items() if key not in OWN_SLURM}
    processes, torchrun = definition.slurm['processes'], definition.slurm['launcher'] != 'slurm'
    nodes = slurm.get('nodes', 1)
    if not {'ntasks', 'ntasks-per-node'} & slurm.keys():
        slurm['ntasks'] = nodes if torchrun else processes  # one torchrun a node
    if not torchrun and slurm.get('requeue') is not False:
        slurm = {'requeue': True, 'signal': SIGNAL, **slurm}
    if definition.threads is not None:
        cpus = definition.threads + (definition.workers or 0)
        slurm.setdefault('cpus-per-task', cpus * processes // nodes if torchrun else cpus)
    return _flags(slurm)


def _flags(options: dict[str, object]) -> str:
    given = [(key, value) for key, value in options.items() if value not in (False, None)]
    return ''.join(f' --{key}' + ('' if value is True else f'={shlex.quote(str(value))}') for key, value in given)


def _command(definition: Definition, run: Run) -> str:
    slurm = definition.slurm
    python, count, nodes = slurm['python'], slurm['processes'], slurm.get('nodes', 1)
    job = f'-m mmdistill_dense suite {shlex.join(job_words(definition.path, run))}'
    if slurm['launcher'] == 'slurm':
        many = ' --launcher slurm' if count > 1 else ''
        # told of its time limit, it saves and starts again; torchrun would end without saying why
        again = '' if slurm.get('requeue') is False else AGAIN
        command = f'{PORT if many else ""}{SRUN.format(tasks="", command=f"{python} {job}{many}")}{again}'
    elif count == 1:
        command = f'{python} {job}'
    else:
        meet = '--master_port=$MASTER_PORT' if nodes == 1 else MEET.format(nodes=nodes)
        torchrun = (
            f'{python} -m torch.distributed.run --nproc_per_node={count // nodes} {meet} {job} --launcher pytorch'
        )
        spread = torchrun if nodes == 1 else SRUN.format(tasks=' --ntasks-per-node=1', command=torchrun)
        command = f'{PORT}{spread}'
    return f'{slurm["setup"]} && {command}' if slurm['setup'] else command
