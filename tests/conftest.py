"""Options of all tests, where they run, and a server for them."""

import gc
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.isolation import fresh_folder, leave_home

ELSEWHERE = pytest.StashKey[Path]()  # the folder that tests run in
LAST = pytest.StashKey[Path | None]()  # the file of the test before


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        '--golden-dir',
        metavar='DIR',
        help='folder with one folder of golden vectors per method; default ../shared/golden, if there',
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Leave the clone and the home before a test module is imported, in each process that runs tests."""
    if session.config.pluginmanager.has_plugin('dsession'):  # it starts those processes, and runs no test
        return (yield)
    session.config.stash[ELSEWHERE] = leave_home()
    fresh_folder(session.config.stash[ELSEWHERE])
    result = yield
    # The modules stay until the end. Every data set that is built collects garbage and would walk all of them.
    gc.freeze()
    session.config.stash[LAST] = None
    return result


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave to ``-m soak`` all cases of a test but ``sample(count)``, which lie evenly among them."""
    cases = defaultdict(list)
    for item in items:
        if item.get_closest_marker('sample') and not item.get_closest_marker('soak'):
            cases[item.nodeid.partition('[')[0]].append(item)
    for same in cases.values():
        count = same[0].get_closest_marker('sample').args[0]
        kept = {index * len(same) // count for index in range(count)}
        for index, item in enumerate(same):
            if index not in kept:
                item.add_marker('soak')


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    fresh_folder(item.config.stash[ELSEWHERE])
    if item.path != item.config.stash[LAST]:
        # Libraries and cached configs that a file of tests leaves stay as well. At the end of `make test` it would take
        # half a second to walk them, at each data set.
        item.config.stash[LAST] = item.path
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def fresh_process() -> Iterator[None]:
    """Begin a test as in a process of its own: without another test's default scope, and with a Ctrl-C that counts.

    A shell's background job, nohup and some CI runners start processes that ignore SIGINT.
    """
    if scopes := sys.modules.get('mmengine.registry.default_scope'):
        scopes.DefaultScope._instance_dict.clear()
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test marked by ``built(argument, make, ids)`` the cases that ``make`` returns, if the test may run.

    To list all configs takes a second, in each process that collects.
    """
    for mark in metafunc.definition.iter_markers('built'):
        marks = defaultdict(bool, {marker.name: True for marker in metafunc.definition.iter_markers()})
        argument, make, *ids = mark.args
        asked = eval(metafunc.config.option.markexpr or 'True', {}, marks)
        metafunc.parametrize(argument, make() if asked else [], ids=next(iter(ids), None))


@pytest.fixture
def server(tmp_path):
    """A web server for a folder; yields (folder, address)."""
    folder = tmp_path / 'web'
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()  # seconds that its end takes
    yield folder, f'http://127.0.0.1:{http.server_port}'
    http.shutdown()
    http.server_close()
