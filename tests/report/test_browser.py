"""The page in headless Chromium: opened from disk, at the width of a desk and of a phone, light and dark."""

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.soak

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
PATIENCE = 180_000  # ms: the machine may be busy
SIZES = {'desk': (1280, 'light'), 'phone': (390, 'dark')}


def executable(playwright: Any) -> str | None:
    """playwright's own browser, else the system's."""
    own = playwright.chromium.executable_path
    return own if Path(own).is_file() else next(filter(None, map(shutil.which, NAMES)), None)


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
        found = playwright.chromium.launch(executable_path=path, args=options, timeout=PATIENCE)
        yield found
        found.close()


@pytest.fixture(scope='module', params=SIZES)
def opened(request: pytest.FixtureRequest, browser: Any, made: Any) -> Iterator[tuple[Any, list[str], list[str]]]:
    """A page with what it said and asked for."""
    width, scheme = SIZES[request.param]
    context = browser.new_context(viewport=dict(width=width, height=900), color_scheme=scheme, has_touch=width < 500)
    context.set_default_timeout(PATIENCE)
    page, said, asked = context.new_page(), [], []
    page.on('console', lambda message: said.append(f'{message.type}: {message.text}'))
    page.on('pageerror', lambda error: said.append(str(error)))
    page.on('request', lambda request: asked.append(request.url))
    page.goto(made[0].as_uri())
    page.wait_for_selector('html[data-ready]')
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    page.wait_for_function("document.querySelectorAll('.plot:not(.js-plotly-plot)').length === 0")
    yield page, said, asked
    context.close()


@pytest.mark.parametrize(('ci', 'apt', 'fails'), [('true', True, True), ('true', False, False), ('', True, False)])
def test_a_missing_browser_fails_where_it_could_have_been_installed(ci, apt, fails, monkeypatch):
    monkeypatch.setenv('CI', ci)
    monkeypatch.setattr(shutil, 'which', lambda name: name if apt else None)
    with pytest.raises(pytest.fail.Exception if fails else pytest.skip.Exception, match='no browser'):
        leave('no browser')


def test_nothing_is_said_on_the_console_and_nothing_asked_for(opened, made):
    page, said, asked = opened
    page.evaluate("document.getElementById('theme').click()")
    page.evaluate("document.getElementById('theme').click()")
    assert said == []
    assert {url for url in asked if not url.startswith('data:')} == {made[0].as_uri()}


def test_every_figure_is_seen(opened):
    page, _, _ = opened
    found = page.evaluate(
        """[...document.querySelectorAll('figure, .main-svg, .scroll, img, .stage')].map((part) => {
          const box = part.getBoundingClientRect();
          const drawn = part.tagName !== 'IMG' || part.naturalWidth > 0;
          return { what: part.tagName + '.' + part.getAttribute('class'), width: box.width, height: box.height, drawn };
        })"""
    )
    unseen = [part for part in found if part['width'] < 20 or part['height'] < 10 or not part['drawn']]
    assert len(found) > 30
    assert unseen == []
    traces = page.evaluate(
        """[...document.querySelectorAll('.js-plotly-plot')].map((plot) => {
          return plot.querySelectorAll('.scatterlayer .trace, .barlayer .trace').length;
        })"""
    )
    assert len(traces) > 5
    assert all(traces)


def test_nothing_is_wider_than_the_window(opened):
    page, _, _ = opened
    assert page.evaluate('document.documentElement.scrollWidth <= document.documentElement.clientWidth')


def test_no_text_is_squeezed_into_a_column_of_letters(opened):
    page, _, _ = opened
    squeezed = page.evaluate(
        """[...document.querySelectorAll('caption, figcaption, .caption, th, td, li, .reason')].filter((part) => {
          const box = part.getBoundingClientRect();
          return part.textContent.trim().length > 12 && box.width < 60;
        }).map((part) => part.textContent)"""
    )
    assert squeezed == []


def test_the_slider_moves_by_keyboard_and_a_picture_is_a_button(opened):
    page, _, _ = opened
    viewer = page.locator('.viewer').first
    slider = viewer.locator('input[type=range]')
    slider.focus()
    for _ in range(5):
        page.keyboard.press('ArrowRight')
    assert slider.input_value() == '55'
    assert viewer.locator('.stage .left').evaluate('(image) => getComputedStyle(image).clipPath').startswith('inset(0')
    assert slider.get_attribute('aria-valuetext') == '55 % left'
    last = viewer.locator('button.panel').last
    last.focus()
    page.keyboard.press('Enter')
    truth = last.locator('img').get_attribute('src')
    assert viewer.locator('.stage .right').get_attribute('src') == truth


def test_the_appearance_follows_the_system_and_the_button(opened):
    page, _, _ = opened
    shade = 'Math.max(...getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).slice(0, 3))'
    line = "getComputedStyle(document.querySelector('.scatterlayer .js-line, .barlayer .point path')).stroke"
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    before, drawn = page.evaluate(shade), page.evaluate(line)
    assert (before < 128) == dark
    page.evaluate("document.getElementById('theme').click()")
    page.wait_for_function(f"{line} !== '{drawn}'")
    assert (page.evaluate(shade) < 128) != dark
    page.evaluate("document.getElementById('theme').click()")
    page.wait_for_function(f"{line} === '{drawn}'")


def test_pictures_and_charts_have_words(opened):
    page, _, _ = opened
    silent = "[...document.querySelectorAll('img')].filter((image) => !image.alt).length"
    assert page.evaluate(silent) == 0
    unnamed = "[...document.querySelectorAll('.plot')].filter((plot) => !plot.getAttribute('aria-label')).length"
    assert page.evaluate(unnamed) == 0
