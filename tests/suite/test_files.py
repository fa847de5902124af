"""Small files that are whole, and a folder that belongs to one process."""

import errno
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from mmdistill_dense.utils import files
from mmdistill_dense.utils.files import owned
from tests.suite import tiny


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / 'deep' / 'a.json'
    assert files.read_json(path) is None
    files.write_json(path, {'a': [1, None]})
    with pytest.raises(TypeError):
        files.write_json(path, {'a': object()})
    assert files.read_json(path) == {'a': [1, None]}
    assert [file.name for file in path.parent.iterdir()] == ['a.json']
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


AS_NOBODY = """
import os, sys
from pathlib import Path
from mmdistill_dense.utils.files import in_use, owned
os.seteuid(65534)
folder = Path(sys.argv[1])
print('in use' if in_use(folder) else 'free')
try:
    owned(folder, 'this run').__enter__()
except PermissionError as error:
    print(error)
"""


@pytest.mark.skipif(os.getuid() != 0, reason='needs a second user')
def test_a_lock_of_another_user_is_told(request: pytest.FixtureRequest) -> None:
    shared_folder = tempfile.TemporaryDirectory()  # not below pytest's, which each new session closes to others
    request.addfinalizer(shared_folder.cleanup)
    folder = Path(shared_folder.name)
    folder.chmod(0o777)
    for parent in folder.parents:
        if not parent.stat().st_mode & 0o001:
            parent.chmod(0o755)
    lock = folder / '.lock'
    lock.write_text('1 on elsewhere')

    def seen() -> list[str]:
        return subprocess.check_output([sys.executable, '-c', AS_NOBODY, folder], text=True).splitlines()

    for mode in (0o644, 0o600):
        lock.chmod(mode)
        state, words = seen()
        assert state == 'free' and f'this run may not write {lock}: it is of the user with the number 0' in words
    lock.chmod(0o644)
    with owned(folder, 'x'):
        assert seen()[0] == 'in use'
