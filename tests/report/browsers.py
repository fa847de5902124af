"""A Chromium for the tests of pages."""

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
PATIENCE = 180_000  # ms: the machine may be busy


def executable(playwright: Any) -> str | None:
    """playwright's own browser, else the system's."""
    browser_path = playwright.chromium.executable_path
    return browser_path if Path(browser_path).is_file() else next(filter(None, map(shutil.which, NAMES)), None)


def leave(reason: str) -> None:
    """Skip; but where the continuous integration could have installed what is missing (`.ci/run` does), fail."""
    if os.environ.get('CI') == 'true' and shutil.which('apt-get'):
        pytest.fail(f'{reason}, and with CI=true on a machine with apt-get this test must run')
    pytest.skip(reason)


@pytest.fixture(scope='module')
def browser() -> Iterator[Any]:
    if find_spec('playwright') is None:
        leave('playwright is not installed (extra test)')
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = executable(playwright)
        if path is None:
            leave('no Chromium: apt-get install chromium, or python -m playwright install chromium')
        options = ['--no-sandbox'] if os.geteuid() == 0 else []
        actual = playwright.chromium.launch(executable_path=path, args=options, timeout=PATIENCE)
        yield actual
        actual.close()
