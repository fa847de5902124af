"""Pages in headless Chromium: opened from disk, at the width of a desk and of a phone, light and dark."""

import os
import shutil
import time
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


pytestmark = pytest.mark.soak

SIZES = {'night at a desk': (1280, 'dark'), 'phone': (390, 'light')}


def wait(page: Any, condition: str) -> None:
    """Wait for a condition; playwright's own waiting evaluates text in the page, which its policy forbids."""
    end = time.monotonic() + PATIENCE / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(50)


@pytest.fixture(scope='module', params=SIZES)
def opened(request: pytest.FixtureRequest, browser: Any, made: Any) -> Iterator[tuple[Any, list[str], list[str]]]:
    """A page with what it said and asked for."""
    width, scheme = SIZES[request.param]
    context = browser.new_context(viewport=dict(width=width, height=900), color_scheme=scheme, has_touch=width < 500)
    context.set_default_timeout(PATIENCE)
    page, output, asked = context.new_page(), [], []
    page.on('console', lambda message: output.append(f'{message.type}: {message.text}'))
    page.on('pageerror', lambda error: output.append(str(error)))
    page.on('request', lambda request: asked.append(request.url))
    page.goto(made[0].as_uri())
    page.wait_for_selector('html[data-ready]')
    wait(page, "document.querySelectorAll('.plot:not(.js-plotly-plot)').length === 0")
    yield page, output, asked
    context.close()


def test_the_console_stays_empty(opened, made):
    page, output, asked = opened
    page.evaluate("document.getElementById('theme').click()")
    page.evaluate("document.getElementById('theme').click()")
    assert output == []
    assert {url for url in asked if not url.startswith('data:')} == {made[0].as_uri()}


def test_every_figure_is_seen(opened):
    page, _, _ = opened
    scores = page.evaluate(
        """[...document.querySelectorAll('figure, .main-svg, .scroll, img')].map((part) => {
          const box = part.getBoundingClientRect();
          const drawn = part.tagName !== 'IMG' || part.naturalWidth > 0;
          return { what: part.tagName + '.' + part.getAttribute('class'), width: box.width, height: box.height, drawn };
        })"""
    )
    unseen = [part for part in scores if part['width'] < 20 or part['height'] < 10 or not part['drawn']]
    assert len(scores) > 20
    assert unseen == []
    assert page.evaluate('document.documentElement.scrollWidth <= document.documentElement.clientWidth')
    traces = page.evaluate(
        """[...document.querySelectorAll('.js-plotly-plot')].map((plot) => {
          return plot.querySelectorAll('.scatterlayer .trace').length;
        })"""
    )
    assert len(traces) > 2
    assert all(traces)
