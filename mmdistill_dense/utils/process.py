"""How this process waits, which device it uses, what it shows during a long step, and says when it ends by an error."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, redirect_stdout
from functools import cache
from itertools import dropwhile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from mmdistill_dense.utils.files import write_json
from mmdistill_dense.utils.validate import first_line, text_of

if TYPE_CHECKING:
    from rich.console import Console

SPINS = '1000'  # with 5000 a step on busy cores takes three times as long; on free ones it makes no difference


def wait_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let a thread that waits for the others sleep soon, unless the environment says how to wait.

    Else it takes the core from the one that it waits for. Call this before torch is loaded or for a new process.
    """
    if 'OMP_WAIT_POLICY' not in environment:
        environment.setdefault('GOMP_SPINCOUNT', SPINS)


def cores() -> int:
    """Return the number of cores that this process may use, which a job of Slurm or a container may limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def threads_asked_for() -> int:
    """Return the number of threads that the user's shell asks for (``OMP_NUM_THREADS``), 0 without any."""
    number = os.environ.get('OMP_NUM_THREADS', '').partition(',')[0].strip()
    return int(number) if number.isdigit() else 0


def device_of(device: str | None) -> str:
    """Return the device of ``--device``, by default a GPU where there is one; refuse one that this machine lacks."""
    import torch  # so that a mistake in a command is told at once

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = [*(['cuda'] if gpus else []), *(f'cuda:{number}' for number in range(gpus) if gpus > 1), 'cpu']
    if device is None:
        return devices[0]
    try:
        torch.zeros(1, device=device)
    except (AssertionError, RuntimeError) as error:  # torch without CUDA, no GPU of this number, no such name
        reason = str(error).partition('\n')[0].rstrip('.')
        raise ValueError(f'--device {device}: this machine has {", ".join(devices)}. torch says: {reason}.') from error
    return device


@contextmanager
def errors_only() -> Iterator[None]:
    """Drop log messages below the level of errors while the context is open."""
    from mmengine.logging import MMLogger  # imports torch, which a mistake in a command need not wait for

    before, logger = logging.root.manager.disable, MMLogger.get_current_instance()
    level = logger.level
    logging.disable(logging.WARNING)
    logger.setLevel(logging.ERROR)  # setLevel clears the cache of enabled levels in mmengine's loggers
    try:
        yield
    finally:
        logging.disable(before)
        logger.setLevel(level)


@contextmanager
def quiet() -> Iterator[None]:
    """Drop prints, warnings and log messages below the level of errors while the context is open."""
    with errors_only(), redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


def terminal() -> Console:
    """Return a console that writes to standard output, with wide lines where that is no terminal."""
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False)
    return console if console.is_terminal else Console(file=sys.stdout, highlight=False, width=140)


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into :class:`KeyboardInterrupt`, as for Ctrl-C; what nohup ignores stays ignored."""
    main = threading.current_thread() is threading.main_thread()  # others may set no handlers
    signals = (signal.SIGTERM, signal.SIGHUP) if main else ()
    numbers = [number for number in signals if signal.getsignal(number) not in (None, signal.SIG_IGN)]
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


EVERY = 8.0  # seconds


@contextmanager
def heartbeat(task: str) -> Iterator[None]:
    """Write a line to standard error every few seconds while the context is open."""
    stop, start, screen = threading.Event(), time.monotonic(), sys.stderr  # others may redirect it later

    def beat() -> None:
        while not stop.wait(EVERY):
            print(f'{task} … {time.monotonic() - start:.0f} s', file=screen, flush=True)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


# The one sentence about a mistake that the package knows, as the last line of a program that ends with an error

_PACKAGE = f'{Path(__file__).parents[1]}{os.sep}'
_BUGS = (AttributeError, IndexError, NameError, ZeroDivisionError)  # which a `raise` may end in, and none names
_LARGER = 'Train on larger pictures (--size of `new`, else the Resize of the pipeline).'
# what others raise for a mistake of a config, by a part of their text
_OF_OTHERS = {
    'Expected more than 1 value per channel when training': 'train_dataloader.batch_size=1: a batch norm behind global '
    'pooling (DeepLabV3, PSPNet) has one value a channel to normalise. Set it to 2 or more, for each process.',
    'selected index k out of range': f'perhaps the maps have fewer places than num_queries. {_LARGER}',
    'Default process group has not been initialized': 'perhaps MMSyncBN needs processes. Set norm_cfg.type to SyncBN.',
    'Output size is too small': f'a map is smaller than the window of its pooling, as of LR-ASPP. {_LARGER}',
    'input image is smaller than kernel': f'a map is smaller than the kernel of a deformable convolution. {_LARGER}',
}


def known_mistake(error: BaseException) -> str:
    """Return what an error means to the user: the message of a ``raise`` of this package, or ours for one of others.

    The first in the chain of causes counts; empty if there is none.
    """
    cause: BaseException | None = error
    while cause is not None:
        if message := next((message for part, message in _OF_OTHERS.items() if part in str(cause)), ''):
            return f'{message} The library says: {first_line(cause)}'
        # of a reading process, whose error torch tells with its whole traceback, the last place is in that text
        _, _, last = ''.join(traceback.format_exception(cause, chain=False)).rpartition('  File "')
        _, line, *tail = *last.splitlines(), '', ''
        if last.startswith(_PACKAGE) and line.strip().startswith('raise ') and not isinstance(cause, _BUGS):
            if ' in DataLoader worker process ' not in str(cause):
                return text_of(cause)
            return '\n'.join(dropwhile(lambda text: text.startswith(' '), tail)).partition(': ')[2].strip()
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return ''


def tell(mistake: str) -> None:
    """Print a mistake as the last line, and let torchrun show it in its own report."""
    print(f'ERROR    {mistake}', file=sys.stderr, flush=True)
    if file := os.environ.get('TORCHELASTIC_ERROR_FILE'):
        write_json(Path(file), {'message': {'message': mistake, 'extraInfo': {'timestamp': int(time.time())}}})


@cache
def tell_at_the_end() -> None:
    """Let a program that ends with a known mistake say so once more below its traceback."""
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        before(kind, error, trace)
        if message := known_mistake(error):
            tell(message)

    sys.excepthook = hook
