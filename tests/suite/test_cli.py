"""The command as a person uses it."""

import json
import os
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from mmdistill_dense.__main__ import Parser, fill, main
from mmdistill_dense.apps.recipes import compose
from mmdistill_dense.apps.suite import actions, plan, slurm
from mmdistill_dense.apps.suite.definition import load
from mmdistill_dense.apps.suite.pool import job_words
from tests.suite import tiny


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('COLUMNS', '200')


def test_list_without_a_definition_shows_every_method_and_places_are_counted_from_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(['suite', 'list']) == 0
    printed = capsys.readouterr().out
    assert all(f' {method} ' in printed for method in compose.methods())
    with pytest.raises(SystemExit):
        main(['suite', 'run', str(tiny.write(Path())), '--jobs', '0'])
    assert "--jobs: must be 1 or more, got '0'" in capsys.readouterr().err


def test_list_shows_states(capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny.write(Path())
    definition = load(path)
    runs = {run.title: run for run in plan.runs(definition)}
    first, control = runs['kd seed 0'], runs['control seed 0']
    tiny.write_result(first.folder, 12.25, config_hash=plan.hash_of(definition, first))
    tiny.write_result(control.folder, 30.5, config_hash='old')
    assert main(['suite', 'list', str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    for words in (('kd seed 0', 'finished', '12.25'), ('control seed 0', 'finished', '30.50')):
        assert any(all(word in line for word in words) for line in lines), words
    assert any('others that fit: afdcd, ' in line for line in lines)


def test_list_tells_what_runs_and_what_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny.write(Path(), methods={'kd': {}, 'cwd': {}, 'mgd': {}}, seeds=[0])
    runs = {run.title: run for run in plan.runs(load(path))}
    state = {'phase': 'training', 'iteration': 21, 'iterations': 300, 'host': 'node7'}
    told = {
        'control seed 0': state,
        'kd seed 0': {**state, 'failed': 'ended with code 3'},
        'cwd seed 0': {**state, 'time': time.time() - 600},
    }
    for title, content in told.items():
        runs[title].folder.mkdir(parents=True)
        (runs[title].folder / 'state.json').write_text(json.dumps(content))
    runs['mgd seed 0'].folder.mkdir(parents=True)
    (runs['mgd seed 0'].folder / 'state.json').touch()  # as a power cut leaves it
    with tiny.held(runs['cwd seed 0'].folder):
        assert main(['suite', 'list', str(path)]) == 0
    text = ' '.join(capsys.readouterr().out.replace('│', ' ').split())
    assert 'control seed 0 stopped at 21/300' in text
    assert 'kd seed 0 FAILED at 21/300: ended with code 3' in text
    assert 'cwd seed 0 training, 21/300 on node7, no word for 10 min' in text
    assert 'mgd seed 0 waits' in text


@pytest.mark.parametrize(('words', 'said'), [
    (['run', '{file}'], 'ERROR    tiny.yaml: methods.kdd: '),
    (['table', 'none.yaml'], "'none.yaml': no such definition"),
    (['job', 'good/tiny.yaml', 'kd'], 'kd has no run with --seed None, but kd seed 0'),
])  # fmt: skip
def test_mistakes_end_with_one_line_and_status_2(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('LOCAL_RANK', '0')
    path, good = tiny.write(Path(), methods={'kdd': {}}), Path('good')
    good.mkdir()
    tiny.write(good)
    assert main(['suite', *(word.format(file=path) for word in words)]) == 2
    assert said in capsys.readouterr().err and not Path('out/runs').exists()


def test_batch_of_another_number_of_gpus_is_refused_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny.write(Path(), control='deeplabv3_r101_to_r18_cityscapes', teacher=None, options=None)
    for command in ('run', 'slurm'):
        assert main(['suite', command, str(path)]) == 2
        assert 'the learning rate is for auto_scale_lr.base_batch_size=16' in capsys.readouterr().err
    path.write_text(path.read_text() + 'slurm: {processes: 8}\n')
    assert main(['suite', 'slurm', str(path)]) == 0
    assert not Path('out/runs').exists()


def test_every_run_is_found_by_its_command_line_and_others_are_told_with_those_that_are() -> None:
    definition = load(tiny.write(Path()))
    for run in plan.runs(definition):
        args = fill(Parser(), 'suite').parse_args(job_words(definition.path, run))
        assert actions.find(definition, args.name, args.seed) == run
    assert actions.find(definition, 'teacher', None).name == 'teacher'
    with pytest.raises(ValueError, match='kd has no run with --seed 5, but kd seed 0'):
        actions.find(definition, 'kd', 5)
    with pytest.raises(ValueError, match="row 'kdd': unknown. Close: kd"):
        actions.find(definition, 'kdd', 0)


@pytest.mark.parametrize(('asked', 'words', 'threads'), [
    ('3', [], 3), ('3', ['--threads', '2'], 2), (None, ['--jobs', '64'], 1),
])  # fmt: skip
def test_threads_that_the_shell_asks_for_are_taken(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, words: list[str], threads: int
) -> None:
    """The cores were divided among the runs, whatever the shell said."""
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    if asked:
        monkeypatch.setenv('OMP_NUM_THREADS', asked)
    taken = []

    class Idle:
        def __init__(self, command: Any, jobs: int, threads: int, board: Any, *_: Any) -> None:
            taken.append(threads)

        def execute(self, todo: Any) -> dict[str, str]:
            return {}

    monkeypatch.setattr('mmdistill_dense.apps.suite.pool.Pool', Idle)
    monkeypatch.setattr('mmdistill_dense.apps.suite.preflight.check', lambda *_: None)
    assert main(['suite', 'run', str(tiny.write(Path(), threads=None)), *words]) == 0
    assert taken == [threads]


# The script for slurm, run with an sbatch that only writes down what it is given

SBATCH = """count=$(($(cat count 2>/dev/null || echo 100) + 1))
echo $count > count
[ $count != "$REFUSED" ] || exit 1
for word in "$@"; do printf '%s\\n' "$word"; done > "job$count"
echo "$count;alpha"
"""
GIVEN = {'partition': 'gpu', 'gres': 'gpu:4', 'time': '1-00:00', 'exclusive': True, 'requeue': False, 'processes': 4}


def program(name: str, code: str) -> None:
    """A stand-in of Slurm's in the working folder."""
    Path(name).write_text(f'#!/bin/sh\n{code}')
    Path(name).chmod(0o755)


def submitted(again: bool = False, **changes: Any) -> list[dict[str, str]]:
    """The words of every sbatch, options as a dict; ``again`` with the queue of before."""
    for file in () if again else (*Path().glob('job1*'), Path('count'), Path('my out/slurm/jobs.txt')):
        file.unlink(missing_ok=True)
    definition = load(tiny.write(Path(), **{'slurm': GIVEN, 'out': 'my out', 'threads': 3, **changes}))
    program('sbatch', SBATCH)
    environment = dict(os.environ, PATH=f'{Path.cwd()}{os.pathsep}{os.environ["PATH"]}')
    subprocess.run(['sh', '-c', slurm.slurm_script(definition, plan.runs(definition))], env=environment, check=True)
    assert Path('my out/slurm').is_dir()
    lines = [file.read_text().splitlines() for file in sorted(Path().glob('job1*'))]
    return [{name: value for name, _, value in (word.partition('=') for word in words)} for words in lines]


def test_jobs_wait_for_what_they_need_and_options_go_to_sbatch_and_processes_through_srun() -> None:
    teacher, control, kd, table = submitted()
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


def test_a_job_waits_for_the_controls_whose_rate_it_takes_and_at_most_so_many_run() -> None:
    methods = {'kd': {'rate': 'control'}, 'control_x2': {'rate': 2}}
    _, _, twice, kd, _ = submitted(methods=methods)
    assert twice['--job-name'] == 'control_x2-seed-0' and '--dependency' not in twice
    assert kd['--dependency'] == 'afterok:101,afterany:102,afterany:103', 'also if one of them fails'
    jobs, after = submitted(seeds=[0, 1], slurm={**GIVEN, 'most': 2}), 'afterok:101'
    waits = [job.get('--dependency') for job in jobs[:-1]]
    assert waits == [None, None, f'{after},afterany:101', 'afterany:102', f'{after},afterany:103']
    assert '--most' not in jobs[0]


def test_a_job_at_its_time_limit_saves_and_waits_again() -> None:
    _, _, kd, table = submitted(slurm={'processes': 1, 'time': '4:00:00'})
    assert (kd['--signal'], kd['--requeue']) == ('USR1@120', '') and '--requeue' not in table
    program('srun', 'exit $STATUS')
    program('scontrol', 'echo "$@" >> again.txt')
    environment = dict(os.environ, PATH=f'{Path.cwd()}{os.pathsep}{os.environ["PATH"]}', SLURM_JOB_ID='103')
    for status, restarts in ((0, '0'), (1, '0'), (143, '0'), (138, '100'), (138, '1')):
        env = {**environment, 'STATUS': str(status), 'SLURM_RESTART_COUNT': restarts}
        assert subprocess.run(['sh', '-c', kd['--wrap']], env=env).returncode == status
        again = Path('again.txt').is_file()
        assert again == ((status, restarts) == (138, '1')), 'a failure, a cancelled job and the 100th start do not'
    assert Path('again.txt').read_text() == 'requeue 103\n'


def test_processes_by_torchrun_after_a_setup_and_one_torchrun_a_node() -> None:
    given = {'launcher': 'pytorch', 'setup': '. ./env.sh', 'python': 'python3', 'ntasks': 1}
    for processes in (1, 2):
        _, _, kd, table = submitted(slurm={**given, 'processes': processes})
        words = shlex.split(kd['--wrap'])
        assert kd['--wrap'].startswith('. ./env.sh && ') and table['--wrap'].startswith('. ./env.sh && python3 ')
        assert (kd['--ntasks'], kd['--cpus-per-task']) == ('1', str(3 * processes)), 'of all processes'
        assert ';' not in kd['--wrap'], 'what follows a setup that fails would run all the same'
        assert ('--nproc_per_node=2' in words) == ('--launcher' in words) == (processes == 2)
    _, _, kd, _ = submitted(slurm={'launcher': 'pytorch', 'processes': 16, 'nodes': 2, 'gres': 'gpu:8'})
    assert (kd['--ntasks'], kd['--nodes'], kd['--cpus-per-task']) == ('2', '2', '24')
    told = {'srun', '--ntasks-per-node=1', '--nproc_per_node=8', '--nnodes=2', '--rdzv_backend=c10d'}
    assert told <= {*shlex.split(kd['--wrap'])}


def test_nothing_but_the_script_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    real = plan.unfinished

    def noisy(*args: Any, **kwargs: Any) -> Any:
        print('Could not import a package')
        return real(*args, **kwargs)

    monkeypatch.setattr(plan, 'unfinished', noisy)
    file = tiny.write(Path(), slurm={})
    capsys.readouterr()
    assert main(['suite', 'slurm', str(file)]) == 0
    assert capsys.readouterr().out.startswith('#!/bin/sh\n')


def test_a_job_in_the_queue_is_not_submitted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where sbatch refused a later one, which ends the script."""
    monkeypatch.setenv('REFUSED', '103')
    with pytest.raises(subprocess.CalledProcessError):
        submitted()
    jobs = Path('my out/slurm/jobs.txt')
    assert jobs.read_text().splitlines() == ['101 teacher', '102 runs/control/seed0']
    monkeypatch.delenv('REFUSED')
    submitted()
    kept = jobs.read_text().splitlines()
    assert kept == ['101 teacher', '102 runs/control/seed0', '103 runs/kd/seed0']
    program('squeue', 'echo "101 teacher"; echo "103 kd-seed-0"; echo "999 other"')
    monkeypatch.setenv('PATH', f'{Path.cwd()}{os.pathsep}{os.environ["PATH"]}')
    for file in Path().glob('job1*'):
        file.unlink()
    log = 'my out/slurm/control-seed-0-102.txt'
    Path(log).write_text('a\nout of memory $(touch x) `touch y`\n')
    control, table = submitted(again=True)
    assert control['--job-name'] == 'control-seed-0'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slurm, 'JOBS', 'copy.txt')  # as it was before
        Path('my out/slurm/copy.txt').write_text('\n'.join(kept))
        text = slurm.slurm_script(load(Path('tiny.yaml')), plan.runs(load(Path('tiny.yaml'))))
    said = f'# control seed 0: job 102 has ended without a result. {log} ends with:\n#     a\n#     out of memory $('
    assert said in text and not Path('x').exists() and not Path('y').exists()
    assert table['--dependency'] == 'afterany:101:105:103'
    program('squeue', 'exit 1')
    with pytest.raises(RuntimeError, match='squeue cannot tell which of them still wait'):
        submitted(again=True)
