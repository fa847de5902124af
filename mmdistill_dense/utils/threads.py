"""How threads of this process wait for each other."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

SPINS = '1000'  # with 5000 a step on busy cores takes three times as long; on free ones it makes no difference


def wait_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let a thread that waits for the others sleep soon, unless the environment says how to wait.

    The OpenMP of GNU, which torch brings for Linux, keeps a waiting thread busy for a while. If another program uses
    the cores too, the busy thread takes the core from the one that it waits for: a small network on two threads, beside
    three trainings on two cores, took 3.8 s a step, and 0.07 s with few spins. On free cores both took 0.015 s.

    It is read when torch is loaded, so this must be called before, or for the environment of a new process.
    """
    if 'OMP_WAIT_POLICY' not in environment:
        environment.setdefault('GOMP_SPINCOUNT', SPINS)


def cores() -> int:
    """Return the number of cores that this process may use, which a job of Slurm or a container may limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def threads_asked_for() -> int:
    """Return the number of threads that the user's shell asks for (``OMP_NUM_THREADS``), 0 without any."""
    asked = os.environ.get('OMP_NUM_THREADS', '').partition(',')[0].strip()
    return int(asked) if asked.isdigit() else 0
