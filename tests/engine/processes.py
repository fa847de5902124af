"""Starting the command lines as a person would."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from mmengine.hooks import Hook

from mmdistill_dense.registry import HOOKS

ROOT = Path(__file__).parents[2]


def environment(**extra):
    """The variables of a process that sees this checkout, one thread and no GPU."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    return dict(
        os.environ, PYTHON=sys.executable, PYTHONPATH=path, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='-1', **extra
    )


def free_port():
    """A port that nobody has at this moment: another suite may run on this machine."""
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        return str(server.getsockname()[1])


def run(command, cwd, env):
    """Runs a command that must succeed; returns all it printed."""
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@HOOKS.register_module()
class SignalAt(Hook):
    """Sends this process a signal, in the middle of an event, which fails then where an ``error`` is given."""

    def __init__(self, event, number=signal.SIGTERM, at=2, error=None):
        self.sent = False

        def send(runner, batch_idx, **_):
            if runner.iter == at and not self.sent:
                self.sent = True
                os.kill(os.getpid(), number)
                if error:
                    raise error('worker')

        setattr(self, event, send)
