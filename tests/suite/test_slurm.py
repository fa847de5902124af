"""The script for slurm, run with an sbatch that only writes down what it is given."""

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.suite import plan, slurm
from mmdistill_dense.apps.suite.definition import load
from tests.suite import tiny

SBATCH = """#!/bin/sh
count=$(($(cat count 2>/dev/null || echo 100) + 1))
echo $count > count
[ $count != "$REFUSED" ] || exit 1
for word in "$@"; do printf '%s\\n' "$word"; done > "job$count"
echo "$count;alpha"
"""
GIVEN = {'partition': 'gpu', 'gres': 'gpu:4', 'time': '1-00:00', 'exclusive': True, 'requeue': False, 'processes': 4}


def submitted(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> list[dict[str, str]]:
    """The words of every sbatch, options as a dict."""
    monkeypatch.chdir(folder)
    definition = load(tiny.write(Path(), **{'slurm': GIVEN, 'out': 'my out', 'threads': 3, **changes}))
    (folder / 'sbatch').write_text(SBATCH)
    (folder / 'sbatch').chmod(0o755)
    environment = dict(os.environ, PATH=f'{folder}{os.pathsep}{os.environ["PATH"]}')
    subprocess.run(['sh', '-c', slurm.slurm_script(definition, plan.runs(definition))], env=environment, check=True)
    assert (folder / 'my out' / 'slurm').is_dir()
    lines = [file.read_text().splitlines() for file in sorted(folder.glob('job1*'))]
    return [{name: value for name, _, value in (word.partition('=') for word in words)} for words in lines]


def test_jobs_wait_for_what_they_need_and_options_go_to_sbatch_and_processes_through_srun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, control, kd, table = submitted(tmp_path, monkeypatch)
    assert '--dependency' not in teacher and '--dependency' not in control
    assert kd['--dependency'] == 'afterok:101'
    assert table['--dependency'] == 'afterany:101:102:103'
    assert table['--wrap'].endswith('-m mmdistill_dense suite table tiny.yaml')
    assert table['--partition'] == 'gpu' and '--gres' not in table
    assert kd['--job-name'] == 'kd-seed-0'
    assert kd['--output'] == 'my out/slurm/kd-seed-0-%j.txt'
    assert (kd['--gres'], kd['--time'], kd['--ntasks'], kd['--cpus-per-task']) == ('gpu:4', '1-00:00', '4', '3')
    assert kd['--exclusive'] == '' and '--requeue' not in kd and '--processes' not in kd
    port, _, command = kd['--wrap'].partition(' && ')
    assert 'MASTER_PORT' in port
    program = 'python -m mmdistill_dense suite job tiny.yaml kd --seed 0 --launcher slurm'
    assert command == slurm.SRUN.format(tasks='', command=program)
    assert 'job tiny.yaml teacher' in teacher['--wrap']
    assert '--signal' not in kd, 'requeue is false'


def test_a_job_waits_for_the_controls_whose_rate_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = {'kd': {'rate': 'control'}, 'control_x2': {'rate': 2}}
    _, _, twice, kd, _ = submitted(tmp_path, monkeypatch, methods=methods)
    assert twice['--job-name'] == 'control_x2-seed-0' and '--dependency' not in twice
    assert kd['--dependency'] == 'afterok:101,afterany:102,afterany:103', 'also if one of them fails'


def test_at_most_so_many_jobs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = submitted(tmp_path, monkeypatch, seeds=[0, 1], slurm={**GIVEN, 'most': 2})
    waits = [job.get('--dependency') for job in jobs[:-1]]
    after = 'afterok:101'
    assert waits == [None, None, f'{after},afterany:101', 'afterany:102', f'{after},afterany:103']
    assert '--most' not in jobs[0]


def test_a_job_at_its_time_limit_saves_and_waits_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, kd, table = submitted(tmp_path, monkeypatch, slurm={'processes': 1, 'time': '4:00:00'})
    assert (kd['--signal'], kd['--requeue']) == ('USR1@120', '') and '--requeue' not in table
    (tmp_path / 'srun').write_text('#!/bin/sh\nexit $STATUS')
    (tmp_path / 'scontrol').write_text('#!/bin/sh\necho "$@" >> again.txt')
    for name in ('srun', 'scontrol'):
        (tmp_path / name).chmod(0o755)
    environment = dict(os.environ, PATH=f'{tmp_path}{os.pathsep}{os.environ["PATH"]}', SLURM_JOB_ID='103')
    for status, restarts in ((0, '0'), (1, '0'), (143, '0'), (138, '100'), (138, '1')):
        env = {**environment, 'STATUS': str(status), 'SLURM_RESTART_COUNT': restarts}
        assert subprocess.run(['sh', '-c', kd['--wrap']], env=env).returncode == status
        again = (tmp_path / 'again.txt').is_file()
        assert again == ((status, restarts) == (138, '1')), 'a failure, a cancelled job and the 100th start do not'
    assert (tmp_path / 'again.txt').read_text() == 'requeue 103\n'


@pytest.mark.parametrize('processes', [1, 2])
def test_processes_by_torchrun_after_a_setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    given = {'launcher': 'pytorch', 'processes': processes, 'setup': '. ./env.sh', 'python': 'python3', 'ntasks': 1}
    _, _, kd, table = submitted(tmp_path, monkeypatch, slurm=given)
    words = shlex.split(kd['--wrap'])
    assert kd['--wrap'].startswith('. ./env.sh && ') and table['--wrap'].startswith('. ./env.sh && python3 ')
    assert (kd['--ntasks'], kd['--cpus-per-task']) == ('1', str(3 * processes)), 'of all processes'
    assert ';' not in kd['--wrap'], 'what follows a setup that fails would run all the same'
    assert ('--nproc_per_node=2' in words) == ('--launcher' in words) == (processes == 2)


def test_nothing_but_the_script_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    real = plan.unfinished

    def noisy(*args: Any, **kwargs: Any) -> Any:
        print('Could not import a package')
        return real(*args, **kwargs)

    monkeypatch.setattr(plan, 'unfinished', noisy)
    monkeypatch.chdir(tmp_path)
    file = tiny.write(tmp_path, slurm={})
    capsys.readouterr()
    assert main(['suite', 'slurm', str(file)]) == 0
    assert capsys.readouterr().out.startswith('#!/bin/sh\n')


def test_several_nodes_have_one_torchrun_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {'launcher': 'pytorch', 'processes': 16, 'nodes': 2, 'gres': 'gpu:8'}
    _, _, kd, _ = submitted(tmp_path, monkeypatch, slurm=given)
    assert (kd['--ntasks'], kd['--nodes'], kd['--cpus-per-task']) == ('2', '2', '24')
    words = {'srun', '--ntasks-per-node=1', '--nproc_per_node=8', '--nnodes=2', '--rdzv_backend=c10d'}
    assert words <= {*shlex.split(kd['--wrap'])}


def test_a_job_in_the_queue_is_not_submitted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where sbatch refused a later one, which ends the script."""
    monkeypatch.setenv('REFUSED', '103')
    with pytest.raises(subprocess.CalledProcessError):
        submitted(tmp_path, monkeypatch)
    jobs = tmp_path / 'my out/slurm/jobs.txt'
    assert jobs.read_text().splitlines() == ['101 teacher', '102 runs/control/seed0']
    monkeypatch.delenv('REFUSED')
    jobs.unlink()
    (tmp_path / 'count').unlink()
    submitted(tmp_path, monkeypatch)
    kept = jobs.read_text().splitlines()
    assert kept == ['101 teacher', '102 runs/control/seed0', '103 runs/kd/seed0']
    (tmp_path / 'squeue').write_text('#!/bin/sh\necho "101 teacher"; echo "103 kd-seed-0"; echo "999 other"')
    (tmp_path / 'squeue').chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}{os.pathsep}{os.environ["PATH"]}')
    for file in tmp_path.glob('job1*'):
        file.unlink()
    log = 'my out/slurm/control-seed-0-102.txt'
    (tmp_path / log).write_text('a\nout of memory $(touch x) `touch y`\n')
    control, table = submitted(tmp_path, monkeypatch)
    assert control['--job-name'] == 'control-seed-0'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slurm, 'JOBS', 'copy.txt')  # as it was before
        (tmp_path / 'my out/slurm/copy.txt').write_text('\n'.join(kept))
        text = slurm.slurm_script(load(Path('tiny.yaml')), plan.runs(load(Path('tiny.yaml'))))
    said = f'# control seed 0: job 102 has ended without a result. {log} ends with:\n#     a\n#     out of memory $('
    assert said in text and not (tmp_path / 'x').exists() and not (tmp_path / 'y').exists()
    assert table['--dependency'] == 'afterany:101:105:103'
    (tmp_path / 'squeue').write_text('#!/bin/sh\nexit 1')
    with pytest.raises(RuntimeError, match='squeue cannot tell which of them still wait'):
        submitted(tmp_path, monkeypatch)
