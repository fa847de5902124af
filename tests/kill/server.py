"""Forks processes that train from one that has imported everything, and ends them."""

import multiprocessing
import os
import signal
import time
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from tests.engine.processes import ROOT
from tests.kill import child
from tests.kill.child import CUT, Moment

PATIENCE = 240  # seconds, for a machine that is busy with something else


class Server:
    """Starts processes; the first one makes the files that all need."""

    def __init__(self, folder: Path) -> None:
        os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
        self.context = multiprocessing.get_context('forkserver')
        self.context.set_forkserver_preload([child.__name__])
        process, pipe = self._start(child.make_files, str(folder))
        self.files = self._answer(process, pipe, folder)
        process.join()

    def whole(self, kind: str, folder: Path, count: bool = False) -> dict[str, int]:
        """Train to the end; return how many events of each kind there were, where they are counted."""
        process, pipe = self._start(child.train, kind, str(folder), None, count, self.files)
        word, counts = self._answer(process, pipe, folder)
        process.join()
        assert (word, process.exitcode) == ('done', 0), said(folder)
        return counts

    def killed(self, kind: str, folder: Path, moment: Moment, delay: float = 0.0) -> str:
        """Train until the moment; return where the process was, and nothing where it had finished before.

        ``delay``: seconds that pass between the beginning of an iteration and the end that comes from outside.
        """
        process, pipe = self._start(child.train, kind, str(folder), moment, False, self.files)
        word, where = 'killed', f'after {moment.size} bytes'
        if moment.kind not in CUT or pipe.poll(PATIENCE):
            try:
                word, where = pipe.recv()
            except EOFError:
                assert moment.kind in CUT, said(folder)
        if word == 'reached':
            time.sleep(delay)  # the moment itself: the process waits for its end, should it get far
            process.kill()
            where = f'{1000 * delay:.0f} ms after the beginning {where}'
        process.join(PATIENCE)
        if word == 'done':
            return ''
        expected = -signal.SIGXFSZ if moment.kind in CUT else -signal.SIGKILL
        assert process.exitcode == expected, f'{process.exitcode}: {said(folder)}'
        return where

    def _start(self, target: Any, *args: Any) -> tuple[Any, Any]:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=target, args=(*args, theirs))
        process.start()
        theirs.close()
        return process, ours

    def _answer(self, process: Any, pipe: Any, folder: Path) -> Any:
        if not pipe.poll(PATIENCE):
            process.kill()
            raise TimeoutError(f'the process said nothing: {said(folder)}')
        try:
            return pipe.recv()
        except EOFError:
            raise AssertionError(f'the process failed: {said(folder)}') from None


def said(folder: Path) -> str:
    """The end of what the processes of a folder printed."""
    texts = [path.read_text(errors='replace')[-3000:] for path in sorted(folder.glob('*.txt'))]
    return '\n'.join(filter(None, texts)) or 'nothing was printed'


def cpu_seconds() -> float:
    """CPU time of all forked processes that have ended, and of the one that forks them."""
    stat = Path(f'/proc/{forkserver._forkserver._forkserver_pid}/stat').read_text().rpartition(')')[2].split()
    return sum(map(int, stat[11:15])) / os.sysconf('SC_CLK_TCK')
