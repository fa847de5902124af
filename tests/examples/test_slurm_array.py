"""The array of Slurm jobs that does a suite, under stand-ins for Slurm's programs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmdistill_dense.apps.suite.table import collect
from tests.suite import tiny

SCRIPT = Path(__file__).parents[2] / 'examples/slurm_array.sh'
# Runs the jobs of an array at once, one after the other; its standard output is the number alone.
SBATCH = """number=$(($(cat count 2>/dev/null || echo 100) + 1))
echo $number > count
for word in "$@"; do
    printf '%s\\n' "$word"
    case $word in --array=*) last=${word#--array=1-} ;; --ntasks=*) tasks=${word#*=} ;; esac
done > "job$number"
shift $(($# - 3))
for index in $(seq "${last%%%*}"); do
    SLURM_ARRAY_TASK_ID=$index SLURM_NTASKS=$tasks SLURM_JOB_ID=$number sh "$@" > "log$number.$index" 2>&1 || true
done
echo "$number;alpha"
"""
SRUN = 'while [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n'


@pytest.fixture(autouse=True)
def _slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program('sbatch', SBATCH)
    program('srun', SRUN)
    program('squeue', ':')
    program('scontrol', 'echo "$@" >> again.txt')
    monkeypatch.setenv('PATH', os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ['PATH']]))


def program(name: str, code: str) -> None:
    """A stand-in in the working folder."""
    Path(name).write_text(f'#!/bin/sh\n{code}')
    Path(name).chmod(0o755)


def submit(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(['sh', str(SCRIPT), *words], capture_output=True, text=True)


def options_of(job: int) -> dict[str, str]:
    words = Path(f'job{job}').read_text().splitlines()[:-3]
    return {name: value for name, _, value in (word.partition('=') for word in words)}


@pytest.mark.soak
def test_arrays_follow_each_other_with_the_options_of_sbatch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs nothing, then what needs the teacher."""
    program('mmdistill', 'echo "$@" >> words.txt')
    monkeypatch.setenv('MOST', '2')
    rows = {'kd': {}, 'faster': {'rate': 2}, 'cwd': {}}
    tiny.write(Path(), methods=rows, out='my out')
    done = submit('tiny.yaml', '2', '--gres=gpu:2', '--time=1-00:00')
    assert done.returncode == 0, done.stderr
    jobs = [options_of(number) for number in (101, 102)]
    assert [job['--array'] for job in jobs] == ['1-3%2', '1-2%2'] and not Path('job103').exists()
    assert [job.get('--dependency') for job in jobs] == [None, 'afterany:101']
    shared = {name: jobs[0][name] for name in ('--ntasks', '--gres', '--time', '--signal', '--output')}
    assert list(shared.values()) == ['2', 'gpu:2', '1-00:00', 'USR1@120', 'my out/slurm/%A_%a.txt']
    lines = Path('words.txt').read_text().splitlines()
    assert lines[-1] == 'suite job tiny.yaml cwd --seed 0 --launcher slurm'
    names = [line.split()[3] for line in lines]
    assert {*names[:3]} == {'teacher', 'control', 'faster'} and names[3:] == ['kd', 'cwd']


def test_a_job_at_its_time_limit_waits_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure, a cancelled job and the 100th start do not."""
    program('mmdistill', 'exit $STATUS')
    Path('runs1.txt').write_text('kd --seed 0\n')
    for name, number in dict(SLURM_ARRAY_TASK_ID=1, SLURM_NTASKS=1, SLURM_JOB_ID=103).items():
        monkeypatch.setenv(name, str(number))
    for status, restarts in ((0, '0'), (1, '0'), (143, '0'), (138, '100'), (138, '1')):
        monkeypatch.setenv('STATUS', str(status))
        monkeypatch.setenv('SLURM_RESTART_COUNT', restarts)
        assert submit('tiny.yaml', 'runs1.txt').returncode == status
        assert Path('again.txt').is_file() == ((status, restarts) == (138, '1'))
    assert Path('again.txt').read_text() == 'requeue 103\n'


def test_a_suite_whose_jobs_wait_is_not_submitted_again() -> None:
    program('squeue', 'echo "101 tiny.yaml"')
    done = submit('tiny.yaml', '1')
    assert done.returncode == 1 and 'jobs of tiny.yaml are in the queue' in done.stderr
    assert not Path('job101').exists()


@pytest.mark.soak
def test_a_suite_is_done_by_jobs_of_slurm() -> None:
    definition = tiny.defined()
    assert submit('tiny.yaml', '1').returncode == 0
    texts = [file.read_text()[-2000:] for file in sorted(Path().glob('log*'))]
    rows = {row.name: len(row.results) for row in collect(definition).verdict.rows}
    assert rows == {'teacher': 1, 'control': 1, 'kd': 1}, texts
    assert submit('tiny.yaml', '1').stdout == 'no run is left\n'
