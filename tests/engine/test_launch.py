"""The gloo opener: when it opens, and that real processes of both launchers train together."""

import os
import re
import stat
import subprocess
import sys

import pytest
import torch.distributed as dist

from mmdistill_dense.engine import ddp as gloo
from tests.engine.processes import ROOT, environment, free_port, run

SRUN = """#!{python}
import os, subprocess, sys
command = sys.argv[1:]
while command[0].startswith('-'):
    command = command[2:] if command[0] == '-p' else command[1:]
env = dict(os.environ, SLURM_NTASKS='2', SLURM_NODELIST='node[1-2]')
tasks = [subprocess.Popen(command, env=dict(env, SLURM_PROCID=str(i), SLURM_LOCALID=str(i))) for i in range(2)]
sys.exit(max(task.wait() for task in tasks))
"""


def losses(log):
    return re.findall(r'Iter\(train\).*? loss: ([\d.]+)', log)


@pytest.fixture
def single(monkeypatch):
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
    (dict(RANK='0', WORLD_SIZE='1'), ['x', '--launcher'], 'cpu', ['gloo']),
    (dict(RANK='0', WORLD_SIZE='2'), ['--launcher=none'], 'cpu', []),
    (dict(RANK='0', WORLD_SIZE='2'), ['--launcher', 'none'], 'cpu', []),
    (dict(RANK='0', WORLD_SIZE='2'), [], 'cuda', []),  # left to mmengine
    (dict(SLURM_PROCID='0', SLURM_NTASKS='4', SLURM_NODELIST='a'), [], 'cpu', []),  # a batch script without srun
])  # fmt: skip
def test_gloo_is_opened_on_the_cpu_alone(given, argv, device, opened, single, monkeypatch):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(gloo, 'get_device', lambda: device)
    assert gloo.open_gloo(argv) == bool(opened) and single == opened


def test_jobs_of_slurm_have_ports_of_their_own(single, monkeypatch, tmp_path):
    actual = []
    for job, launcher in (('1234567', 'pytorch'), ('1234567', 'slurm'), ('1234568', 'slurm')):
        monkeypatch.delenv('MASTER_PORT', raising=False)
        monkeypatch.setenv('SLURM_JOB_ID', job)
        gloo.choose_port(['x', '--launcher', launcher])
        actual.append(os.environ.get('MASTER_PORT'))
    unset, first, second = actual
    assert unset is None, 'torchrun gives its own'
    assert 20000 <= int(first) < 32768 and second != first
    monkeypatch.setenv('MASTER_PORT', '5')
    gloo.choose_port(['x', '--launcher=slurm'])
    assert os.environ['MASTER_PORT'] == '5'
    for name, value in (('SLURM_PROCID', '0'), ('SLURM_NTASKS', '2'), ('SLURM_NODELIST', 'a'), ('PATH', str(tmp_path))):
        monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError, match='set MASTER_ADDR'):
        gloo.open_gloo(['--launcher', 'slurm'])
    monkeypatch.setattr(os, 'environ', dict(os.environ, SLURM_PROCID='1', SLURM_LOCALID='0', MASTER_ADDR='a'))
    gloo.adopt_slurm_environment()
    assert [os.environ[name] for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE')] == ['1', '0', '2'], 'two nodes'


@pytest.mark.soak
def test_slurm_train_gives_the_same_losses(two_processes, tiny_config, tmp_path):
    for name, text in (('srun', SRUN.format(python=sys.executable)), ('scontrol', '#!/bin/sh\necho 127.0.0.1\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(stat.S_IRWXU)
    env = environment(MASTER_PORT=free_port())
    env['PATH'] = os.pathsep.join([str(tmp_path), env['PATH']])
    script, words = ROOT / 'tools' / 'slurm_train.sh', ['--work-dir', tmp_path / 'run']
    expected = losses(two_processes[1])
    assert (two_processes[0] / 'iter_4.pth').is_file() and len(expected) == 4
    assert losses(run(['bash', script, 'partition', 'job', tiny_config, *words], tmp_path, env)) == expected


TORCHRUN = '-m torch.distributed.run --standalone --nproc_per_node 2'
SBATCH = '-p part --job-name=job --gres=gpu:4 --ntasks=4 --ntasks-per-node=4 --cpus-per-task=5 --kill-on-bad-exit=1'


@pytest.mark.parametrize(('script', 'arguments', 'started'), [
    ('dist_train.sh', 'c.py 2 --amp', f'{TORCHRUN} TOOLS/train.py c.py --amp --launcher pytorch'),
    ('dist_test.sh', 'c.py x.pth 2 --tta', f'{TORCHRUN} TOOLS/test.py c.py x.pth --tta --launcher pytorch'),
    ('slurm_train.sh', 'part job c.py --amp', f'{SBATCH} PROGRAM -u TOOLS/train.py c.py --amp --launcher slurm'),
    ('slurm_test.sh', 'part job c.py x.pth', f'{SBATCH} PROGRAM -u TOOLS/test.py c.py x.pth --launcher slurm'),
])  # fmt: skip
def test_scripts_print_their_use(script, arguments, started, tmp_path):
    """A real start of each is in the long tests. A job asks for no more GPUs of a node than it uses."""
    program = tmp_path / 'srun'  # and PYTHON: print what they are given
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(stat.S_IRWXU)
    settings = ('GPUS', 'GRES', 'CPUS_PER_TASK', 'SRUN_ARGS', 'NNODES', 'PORT')  # a user's own
    environment = {name: value for name, value in os.environ.items() if not name.startswith(settings)}
    echo = dict(environment, PYTHON=str(program), PATH=os.pathsep.join([str(tmp_path), os.environ['PATH']]))
    command = ['bash', ROOT / 'tools' / script, *arguments.split()]
    printed = run(command, tmp_path, echo)
    assert printed.strip() == started.replace('TOOLS', str(ROOT / 'tools')).replace('PROGRAM', str(program))
    done = subprocess.run(['bash', str(ROOT / 'tools' / script)], capture_output=True, text=True)
    assert done.returncode == 2 and f'bash tools/{script}' in done.stderr
    for count, node in ((1, 1), (2, 2), (8, 4)) if script == 'slurm_train.sh' else ():
        printed = run(command, tmp_path, dict(echo, GPUS=str(count)))
        assert f'--gres=gpu:{node} --ntasks={count} --ntasks-per-node={node} ' in printed
