"""The pages as `make site` builds them, opened from a folder without a network."""

import re
import subprocess
import sys

import pytest

from tests.isolation import ROOT
from tests.report.browsers import PATIENCE, browser

pytestmark = pytest.mark.soak
__all__ = ['browser']
LOADS = re.compile(
    r'<(?:script|img|iframe|source|video)[^>]*\bsrc="?(?:https?:)?//|<link[^>]*rel="?(?:style|pre|icon)[^>]*https?:'
)


def test_a_page_loads_nothing_from_elsewhere(tmp_path, browser):
    subprocess.run([sys.executable, '-m', 'mkdocs', 'build', '-q', '-d', tmp_path], cwd=ROOT, check=True)
    pages = list(tmp_path.rglob('*.html'))
    assert len(pages) > 100
    assert not [page.name for page in pages if LOADS.search(page.read_text(encoding='utf-8'))]
    context = browser.new_context(viewport=dict(width=1400, height=900), offline=True)
    context.set_default_timeout(PATIENCE)
    page, asked = context.new_page(), []
    page.on('request', lambda request: asked.append(request.url))
    page.goto((tmp_path / 'index.html').as_uri())
    page.fill('.md-search__input', 'wavelet')
    page.wait_for_selector('.md-search-result__link[href*=freekd]')
    assert asked and not [url for url in asked if not url.startswith(('file:', 'data:', 'about:', 'blob:'))]
    context.close()
