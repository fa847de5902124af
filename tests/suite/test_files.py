"""Small files that are whole, and a folder that belongs to one process."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mmdistill_dense.utils import files
from mmdistill_dense.utils.files import owned
from tests.suite import tiny


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    """How files are written: tests/faults/test_checkpoints.py."""
    assert files.read_json(tmp_path / 'a.json') is None
    for text in ('{"a": ', '[1]'):
        (tmp_path / 'a.json').write_text(text)
        with pytest.raises(ValueError, match='a.json: .* remove it'):
            files.read_json(tmp_path / 'a.json')


LEAVES_A_CHILD = """
import os, sys
from pathlib import Path
from mmdistill_dense.utils.files import owned
with owned(Path(sys.argv[1]), 'x'):
    if os.fork() == 0:  # as a loader's worker, which may live longer
        sys.stdin.read()
        os._exit(0)
    print('held', flush=True)
    os.kill(os.getpid(), 9)
"""


def test_a_folder_is_refused_while_its_process_lives(tmp_path: Path) -> None:
    with tiny.held(tmp_path) as process:
        with pytest.raises(RuntimeError, match=f'suite already runs in {tmp_path}, as process {process.pid}'):
            owned(tmp_path, 'suite').__enter__()
        threading.Timer(0.3, process.stdin.close).start()
        with owned(tmp_path, 'suite', patience=30):
            assert process.stdin.closed
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, '-c', LEAVES_A_CHILD, tmp_path], stdin=pipe, stdout=pipe) as process:
        assert process.stdout.readline() == b'held\n'
        process.wait()
        with owned(tmp_path, 'suite'):  # its worker is still there
            process.stdin.close()


def test_a_file_system_without_locks_is_told_from_a_held_folder(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr('fcntl.lockf', refuse)
    with pytest.raises(OSError, match=f'suite needs a folder on a file system with locks.*{tmp_path}'):
        owned(tmp_path, 'suite').__enter__()
    assert not files.in_use(tmp_path)  # what cannot be asked is not waited for


def test_a_lock_of_another_user_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    lock = tmp_path / '.lock'
    lock.write_text('1 on elsewhere')
    monkeypatch.setattr('builtins.open', refuse)
    with pytest.raises(PermissionError) as error:
        owned(tmp_path, 'this run').__enter__()
    assert f'this run may not write {lock}: it is of the user with the number {os.getuid()}' in str(error.value)
