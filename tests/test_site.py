"""The pages as `make site` builds them, opened from a folder without a network."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.report.test_browser import PATIENCE, browser

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.soak
__all__ = ['browser']


@pytest.fixture(scope='module')
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('site')
    subprocess.run([sys.executable, '-m', 'mkdocs', 'build', '-q', '-d', folder], cwd=ROOT, check=True)
    return folder


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob('*.html'))
    assert len(pages) > 100
    loads = re.compile(
        r'<(?:script|img|iframe|source|video)[^>]*\bsrc="?(?:https?:)?//|<link[^>]*rel="?(?:style|pre|icon)[^>]*https?:'
    )
    assert not [page.name for page in pages if loads.search(page.read_text(encoding='utf-8'))]


def test_a_page_opened_from_a_folder_has_a_search(site: Path, browser: Any) -> None:
    context = browser.new_context(viewport=dict(width=1400, height=900), offline=True)
    context.set_default_timeout(PATIENCE)
    page, asked = context.new_page(), []
    page.on('request', lambda request: asked.append(request.url))
    page.goto((site / 'index.html').as_uri())
    page.fill('.md-search__input', 'wavelet')
    page.wait_for_selector('.md-search-result__link[href*=freekd]')
    assert asked and not [url for url in asked if not url.startswith(('file:', 'data:', 'about:', 'blob:'))]
    context.close()
