"""The gloo opener: when it opens, and that real processes of both launchers train together."""

import os
import re
import runpy
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from mmdistill_dense.engine import ddp as gloo
from tests.engine.processes import ROOT, environment, free_port, run
from tests.gloo import start

SRUN = """#!{python}
import os, subprocess, sys
command = sys.argv[1:]
while command[0].startswith('-'):
    command = command[2:] if command[0] == '-p' else command[1:]
env = dict(os.environ, SLURM_NTASKS='2', SLURM_NODELIST='node[1-2]')
tasks = [subprocess.Popen(command, env=dict(env, SLURM_PROCID=str(i), SLURM_LOCALID=str(i))) for i in range(2)]
sys.exit(max(task.wait() for task in tasks))
"""


def run_as_torchrun_does(rank: int, folder: str, port: str, tool: str, *words: str) -> None:
    """Run a script of ``tools`` in a folder with torchrun's variables; what it prints goes to a file there."""
    os.chdir(folder)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    output = os.open(f'{rank}.txt', os.O_CREAT | os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.argv = [str(ROOT / 'tools' / tool), *words, '--launcher', 'pytorch']
    runpy.run_path(sys.argv[0], run_name='__main__')


def losses(log: str) -> list[str]:
    """The printed losses, one per iteration."""
    return re.findall(r'Iter\(train\).*? loss: ([\d.]+)', log)


@pytest.mark.parametrize(('argv', 'launcher'), [
    (['x', '--launcher', 'slurm'], 'slurm'),
    (['--launcher=pytorch'], 'pytorch'),
    (['x'], None),
    (['--launcher'], None),
])  # fmt: skip
def test_requested_launcher(argv: list[str], launcher: str | None) -> None:
    assert gloo.requested_launcher(argv) == launcher


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No launcher's variables, no accelerator, and a list that fills with the backends that would be opened."""
    for name in [*os.environ]:
        if name.startswith(('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_', 'SLURM_')):
            monkeypatch.delenv(name)
    monkeypatch.setattr(gloo, 'get_device', lambda: 'cpu')
    opened: list[str] = []
    monkeypatch.setattr(dist, 'init_process_group', opened.append)
    return opened


@pytest.mark.parametrize(('given', 'argv', 'device', 'opened'), [
    ({}, [], 'cpu', []),
    (dict(RANK='0', WORLD_SIZE='1'), ['--launcher', 'pytorch'], 'cpu', ['gloo']),
    (dict(RANK='0', WORLD_SIZE='2'), ['--launcher', 'none'], 'cpu', []),
    (dict(RANK='0', WORLD_SIZE='2'), [], 'cuda', []),  # left to mmengine
    (dict(SLURM_PROCID='0', SLURM_NTASKS='4', SLURM_NODELIST='a'), [], 'cpu', []),  # a batch script without srun
])  # fmt: skip
def test_gloo_is_opened_for_processes_of_a_launcher_on_the_cpu_alone(
    given: dict, argv: list[str], device: str, opened: list, alone: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(gloo, 'get_device', lambda: device)
    assert gloo.open_gloo(argv) == bool(opened) and alone == opened


def test_slurm_without_scontrol_names_the_way_out(
    alone: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in (('SLURM_PROCID', '0'), ('SLURM_NTASKS', '2'), ('SLURM_NODELIST', 'a'), ('PATH', str(tmp_path))):
        monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError, match='set MASTER_ADDR'):
        gloo.open_gloo(['--launcher', 'slurm'])


def test_jobs_of_slurm_have_ports_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('MASTER_PORT', raising=False)
    monkeypatch.setenv('SLURM_JOB_ID', '1234567')
    gloo.choose_port(['x', '--launcher', 'pytorch'])
    assert 'MASTER_PORT' not in os.environ, 'torchrun gives its own'
    gloo.choose_port(['x', '--launcher', 'slurm'])
    first = os.environ.pop('MASTER_PORT')
    monkeypatch.setenv('SLURM_JOB_ID', '1234568')
    gloo.choose_port(['x', '--launcher=slurm'])
    assert 20000 <= int(first) < 32768 and os.environ['MASTER_PORT'] != first
    monkeypatch.setenv('MASTER_PORT', '5')
    gloo.choose_port(['x', '--launcher=slurm'])
    assert os.environ['MASTER_PORT'] == '5'


@pytest.fixture
def echo(tmp_path: Path) -> dict[str, str]:
    """The variables of a shell whose ``srun`` and ``PYTHON`` print what they are given."""
    program = tmp_path / 'srun'
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(stat.S_IRWXU)
    settings = ('GPUS', 'GRES', 'CPUS_PER_TASK', 'SRUN_ARGS', 'NNODES', 'PORT')  # a user's own
    kept = {name: value for name, value in os.environ.items() if not name.startswith(settings)}
    return dict(kept, PYTHON=str(program), PATH=os.pathsep.join([str(tmp_path), os.environ['PATH']]))


@pytest.mark.parametrize(('count', 'node'), [(1, 1), (2, 2), (8, 4)])
def test_a_job_asks_for_no_more_gpus_of_a_node_than_it_uses(count: int, node: int, echo: dict, tmp_path: Path) -> None:
    command = ['bash', ROOT / 'tools' / 'slurm_train.sh', 'part', 'job', 'c.py']
    printed = run(command, tmp_path, dict(echo, GPUS=str(count)))
    assert f'--gres=gpu:{node} --ntasks={count} --ntasks-per-node={node} ' in printed


@pytest.mark.soak
def test_slurm_train_gives_the_same_losses(two_processes: tuple[Path, str], tiny_config: Path, tmp_path: Path) -> None:
    for name, text in (('srun', SRUN.format(python=sys.executable)), ('scontrol', '#!/bin/sh\necho 127.0.0.1\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(stat.S_IRWXU)
    env = environment(MASTER_PORT=free_port())
    env['PATH'] = os.pathsep.join([str(tmp_path), env['PATH']])
    script, words = ROOT / 'tools' / 'slurm_train.sh', ['--work-dir', tmp_path / 'run']
    expected = losses(two_processes[1])
    assert (two_processes[0] / 'iter_4.pth').is_file() and len(expected) == 4
    assert losses(run(['bash', script, 'partition', 'job', tiny_config, *words], tmp_path, env)) == expected


@pytest.mark.soak
def test_dist_test_reads_what_dist_train_wrote(
    two_processes: tuple[Path, str], tiny_config: Path, tmp_path: Path
) -> None:
    """What ``dist_test.sh`` starts; the script itself is read below."""
    words = [str(tiny_config), str(two_processes[0] / 'iter_4.pth'), '--work-dir', str(tmp_path)]
    start(run_as_torchrun_does, str(tmp_path), free_port(), 'test.py', *words)
    assert 'mIoU' in (tmp_path / '0.txt').read_text()


TORCHRUN = '-m torch.distributed.run --standalone --nproc_per_node 2'
SBATCH = '-p part --job-name=job --gres=gpu:4 --ntasks=4 --ntasks-per-node=4 --cpus-per-task=5 --kill-on-bad-exit=1'


@pytest.mark.parametrize(('script', 'arguments', 'started'), [
    ('dist_train.sh', 'c.py 2 --amp', f'{TORCHRUN} TOOLS/train.py c.py --amp --launcher pytorch'),
    ('dist_test.sh', 'c.py x.pth 2 --tta', f'{TORCHRUN} TOOLS/test.py c.py x.pth --tta --launcher pytorch'),
    ('slurm_train.sh', 'part job c.py --amp', f'{SBATCH} PROGRAM -u TOOLS/train.py c.py --amp --launcher slurm'),
    ('slurm_test.sh', 'part job c.py x.pth', f'{SBATCH} PROGRAM -u TOOLS/test.py c.py x.pth --launcher slurm'),
])  # fmt: skip
def test_scripts_start_the_command_line_and_print_their_use(
    script: str, arguments: str, started: str, echo: dict, tmp_path: Path
) -> None:
    """A real start of each is in the long tests."""
    printed = run(['bash', ROOT / 'tools' / script, *arguments.split()], tmp_path, echo)
    assert printed.strip() == started.replace('TOOLS', str(ROOT / 'tools')).replace('PROGRAM', echo['PYTHON'])
    done = subprocess.run(['bash', str(ROOT / 'tools' / script)], capture_output=True, text=True)
    assert done.returncode == 2 and f'bash tools/{script}' in done.stderr
